"""The network that tells who of up to three people speaks when within ten seconds. Knows no file and no recording.

In shapes, B is the number of chunks, F of frames and C of channels. Sources: pyannote.audio, models/segmentation/
PyanNet.py and models/blocks/sincnet.py; Plaquet and Bredin, Powerset multi-class cross entropy loss, 2023.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 160_000  # samples that the network hears at a time, at 16 kHz
NUM_FRAMES = 589  # per chunk
FRAME_S = 270 / 16_000  # seconds between two frames
FIRST_FRAME_S = 0.0619375 / 2  # the middle of the first frame, which hears so much
NUM_LOCAL = 3  # people that the network can tell apart in a chunk, of whom two at most speak at once
_STRIDE, _KERNEL = 10, 251  # of the first filters
_POOLED = 3  # windows whose maximum is taken
# Which of the three people speak in each class of the output.
_POWERSET = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])


class SegmentationNetwork(nn.Module):
    """Filters, convolutions over the samples, four recurrent layers in both directions, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.empty(80, 1, _KERNEL))
        self.conv1, self.conv2 = nn.Conv1d(80, 60, 5), nn.Conv1d(60, 60, 5)
        self.sample_norm = nn.InstanceNorm1d(1, affine=True)
        norms = [nn.InstanceNorm1d(channels, affine=True) for channels in (80, 60, 60)]
        self.norms = cast("list[nn.InstanceNorm1d]", nn.ModuleList(norms))
        self.lstm = nn.LSTM(60, 128, num_layers=4, bidirectional=True, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(256, 128), nn.Linear(128, 128)
        self.classifier = nn.Linear(128, len(_POWERSET))

    def compute_in(self, dtype: torch.dtype) -> None:
        """Compute what takes the most time, which is the filters and the recurrent layers, in a dtype."""
        self.filters.data = self.filters.data.to(dtype)
        self.lstm.to(dtype)

    def forward(self, samples: Tensor) -> Tensor:
        """Return who speaks in each frame. samples [B, CHUNK] → bool [B, NUM_FRAMES, NUM_LOCAL]"""
        x = F.leaky_relu(self.norms[0](self._filtered(self.sample_norm(samples[:, None]))))
        x = F.leaky_relu(self.norms[1](F.max_pool1d(self.conv1(x), _POOLED)))
        x = F.leaky_relu(self.norms[2](F.max_pool1d(self.conv2(x), _POOLED)))  # [B, 60, F]
        x = self.lstm(x.transpose(1, 2).to(self.filters.dtype))[0].float()
        x = F.leaky_relu(self.linear2(F.leaky_relu(self.linear1(x))))
        return _POWERSET.to(x.device).bool()[self.classifier(x).argmax(-1)]

    def _filtered(self, samples: Tensor) -> Tensor:
        """Return how much the first filters let through: the most of each three windows. [B, 1, CHUNK] → [B, 80, n]"""
        if self.filters.dtype == torch.float32:
            return F.max_pool1d(F.conv1d(samples, self.filters, stride=_STRIDE).abs(), _POOLED)
        # One product of all windows takes a third of the time of a convolution of one channel.
        windows = samples[:, 0].to(self.filters.dtype).unfold(-1, _KERNEL, _STRIDE).contiguous()
        passed = (windows @ self.filters[:, 0].T).abs_()  # [B, windows, 80]
        return passed.view(len(passed), -1, _POOLED, len(self.filters)).amax(2).float().transpose(1, 2)
