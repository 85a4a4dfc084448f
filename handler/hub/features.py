"""Turn the samples of windows into the inputs of a network, with the checkpoint's own feature extractor.

Knows no network.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from handler.hub.silence import Silence
from handler.schema.window import SAMPLE_RATE, Samples, Window

MIN_SAMPLES = SAMPLE_RATE // 2  # a shorter window is followed by silence: convolutions need some frames
_PROBE_S = 40  # seconds of silence that show how many samples an input frame stands for
_MASKS = ("attention_mask", "padding_mask", "input_features_mask")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a network for a batch of windows."""

    tensors: dict[str, Tensor]  # by the names of the network's parameters
    lengths: Tensor  # [B], int64: the input frames of each window, or the samples where the network takes samples


class Features:
    """Extracts the features of windows, and moves them to the device. `dtype` is the number format of the network.

    `multiple_of` is the number of samples of which a network that takes samples must be given a multiple. `silence` is
    added around each window.
    """

    def __init__(
        self,
        extractor: Any,
        device: torch.device,
        dtype: torch.dtype,
        multiple_of: int | None = None,
        silence: Silence | None = None,
    ) -> None:
        self._extractor = extractor
        self._device = device
        self._dtype = dtype
        self._silence = silence
        self._rate = int(extractor.sampling_rate)
        # Extractors that compute spectra by PyTorch can do so on the device.
        takes_device = "device" in inspect.signature(type(extractor).__call__).parameters
        self._options: dict[str, Any] = {"device": str(device)} if takes_device else {}
        if multiple_of is not None:
            self._options["pad_to_multiple_of"] = multiple_of

    @cached_property
    def frame_s(self) -> float:
        """Seconds that an input frame stands for."""
        probe = self.of_samples([np.zeros(_PROBE_S * SAMPLE_RATE, np.float32)])
        return round(_PROBE_S * self._rate / int(probe.lengths[0])) / self._rate

    def __call__(self, windows: Sequence[Window]) -> Inputs:
        """Return the inputs for windows. Shorter ones are padded, which a mask tells if the checkpoint wants one."""
        samples = [window.samples for window in windows]
        return self.of_samples(samples if self._silence is None else [*map(self._silence.around, samples)])

    def of_samples(self, samples: Sequence[Samples]) -> Inputs:
        """Return the inputs for audio at SAMPLE_RATE."""
        arrays = [self._resampled(_at_least(array, MIN_SAMPLES)) for array in samples]
        extracted = self._extractor(
            arrays, sampling_rate=self._rate, return_tensors="pt", padding="longest", **self._options
        )
        tensors = on_device_as(extracted, self._device, self._dtype)
        mask = next((tensors[name] for name in _MASKS if name in tensors), None)
        if mask is not None:
            lengths = mask.reshape(len(arrays), -1).sum(-1).long()
        else:
            main = tensors[self._extractor.model_input_names[0]]
            lengths = torch.full((len(arrays),), main.shape[1], device=main.device)
        return Inputs(tensors, lengths)

    def _resampled(self, samples: Samples) -> Samples:
        return samples if self._rate == SAMPLE_RATE else soxr.resample(samples, SAMPLE_RATE, self._rate)


def on_device_as(values: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors among values, on the device, those of floating-point numbers in the format `dtype`."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=True)
        for name, tensor in tensors.items()
    }


def _at_least(samples: Samples, length: int) -> Samples:
    """Return the samples, followed by silence if there are fewer than `length`."""
    return samples if len(samples) >= length else np.pad(samples, (0, length - len(samples)))
