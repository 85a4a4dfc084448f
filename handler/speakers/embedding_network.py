"""The network that makes of a stretch of speech a vector, which is similar for the same voice. Knows no recording.

In shapes, B is the number of stretches, T of feature frames (10 ms) and C of channels. Sources: wespeaker,
models/resnet.py (ResNet34) and models/pooling_layers.py (TSTP); kaldi, feat/feature-fbank.cc.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_BINS = 80  # mel bands
DIMENSIONS = 256  # of the vector
_BLOCKS = ((32, 3, 1), (64, 4, 2), (128, 6, 2), (256, 3, 2))  # channels, blocks, and stride of each stage
_EPSILON = 1e-8


class Block(nn.Module):
    """Two convolutions and a sum. Batch normalization is part of the convolutions' weights."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        is_same = stride == 1 and inputs == channels
        self.shortcut = None if is_same else nn.Conv2d(inputs, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block. [B, C, bins, T]"""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.conv2(F.relu(self.conv1(x))) + shortcut)


class EmbeddingNetwork(nn.Module):
    """A ResNet with 34 layers over mel bands and time, and the mean and deviation of its output over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, _BLOCKS[0][0], 3, padding=1)
        blocks: list[Block] = []
        inputs = _BLOCKS[0][0]
        for channels, count, stride in _BLOCKS:
            for index in range(count):
                blocks.append(Block(inputs, channels, stride if index == 0 else 1))
                inputs = channels
        self.blocks = cast("list[Block]", nn.ModuleList(blocks))
        self.linear = nn.Linear(2 * inputs * NUM_BINS // 8, DIMENSIONS)

    def forward(self, features: Tensor, weights: Tensor) -> Tensor:
        """Return a vector for each stretch. features [B, T, NUM_BINS], weights [B, T] in [0, 1] → [B, DIMENSIONS]"""
        x = self.first(features)
        for block in self.blocks:
            x = block(x)
        return self.pool(x.float(), weights)

    def first(self, features: Tensor) -> Tensor:
        """Return what goes into the blocks. [B, T, NUM_BINS] → [B, C, NUM_BINS, T]"""
        return F.relu(self.conv(features.transpose(1, 2)[:, None]))

    def pool(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return a vector for each stretch, of what comes out of the blocks. float32 [B, C, NUM_BINS / 8, T / 8]"""
        x = x.flatten(1, 2)
        weights = F.interpolate(weights[:, None], x.shape[-1], mode="nearest")
        total = weights.sum(-1) + _EPSILON
        mean = (x * weights).sum(-1) / total
        spread = (weights * (x - mean[..., None]) ** 2).sum(-1)
        variance = spread / (total - (weights**2).sum(-1) / total + _EPSILON)
        statistics = torch.cat((mean, (variance + _EPSILON).clamp(min=0).sqrt()), 1)
        return cast("Tensor", self.linear(statistics))
