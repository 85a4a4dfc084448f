"""Encode windows: samples to log-mel frames to hidden states of audio positions. Knows no token and no slot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from handler.schema.window import SAMPLE_RATE, Samples, Window
from handler.whisper.alignment import onset_strength
from handler.whisper.cuda_graphs import Capture, GraphMismatch, GraphsOnDemand, report_refusal
from handler.whisper.dims import FRAMES_PER_POSITION
from handler.whisper.host_copy import RowsOnTheirWay
from handler.whisper.model import LogMel, Whisper

# A short window is encoded with at least PADDING_S of silence after it, and at least MIN_CONTEXT_S of audio in total.
# With less of either, the network, which was trained on 30 s, begins to repeat itself. With these values, tiny.en and
# base made no more word errors than with 30 s.
PADDING_S = 6.0
MIN_CONTEXT_S = 10.0
CONTEXT_STEP_S = 2.0  # encoded lengths are multiples of it, because kernels are set up for each length
# Numbers of windows that are encoded together, ascending. Kernels are chosen, and some planned, for each number.
# A single window keeps a CPU busy, and a larger batch would make a short request that arrives meanwhile wait longer.
ENCODE_SIZES_CPU = (1,)
ENCODE_SIZES_CUDA = (1, 2, 4, 8)


@dataclass(slots=True)
class EncodedAudio:
    """The encoder's output for a window, and the onset strength, which the alignment of the window's words needs."""

    samples: Samples  # kept alive, because the key of this entry is their id, which Python could otherwise reuse
    audio: Tensor  # [positions, C]
    onset_strength: Tensor  # [frames]


class AudioEncoder:
    """Encodes windows with the encoder of one model."""

    def __init__(
        self,
        model: Whisper,
        device: torch.device,
        dtype: torch.dtype,
        short_context: bool,
        capture: Capture | None = None,
    ) -> None:
        """Create an encoder. With `short_context`, short windows are padded with a few seconds of silence only.

        `capture` makes a graph of the network for each number of windows, in memory that no other graph uses: they may
        run at the same time. Where it is None, the network runs without graphs.
        """
        assert not (short_context and capture), "a graph reads audio of one length"
        self.sizes: tuple[int, ...] = ENCODE_SIZES_CUDA if device.type == "cuda" else ENCODE_SIZES_CPU
        self._model = model
        self._device = device
        self._dtype = dtype
        self._short_context = short_context
        self._mel = LogMel(model.dims.n_mels, device)
        self._samples = RowsOnTheirWay(max(self.sizes), model.dims.window_samples, device)
        self._graphs: GraphsOnDemand | None = None
        if capture is not None:
            shape = (max(self.sizes), model.dims.n_mels, FRAMES_PER_POSITION * model.dims.n_audio_ctx)
            self._input = torch.zeros(shape, device=device, dtype=dtype)
            self._memory_used = torch.cuda.Event() if device.type == "cuda" else None
            self._graphs = GraphsOnDemand(lambda size: model.encoder(self._input[:size]), self.sizes, capture)

    def warm_up(self, limit: int) -> None:
        """Encode silence in batches of every size up to `limit`, so that no request waits for the choice of kernels."""
        for size in self.sizes:
            if size <= limit:
                self.forward(torch.zeros(size, self._model.dims.window_samples, device=self._device))

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-mel frames [B, n_mels, F] and the hidden states [B, S, C] of samples [B, n] on the device."""
        mel = self._mel(samples)
        hidden = None if self._graphs is None else self._by_graph(self._graphs, mel)
        return mel, self._model.encoder(mel.to(self._dtype)) if hidden is None else hidden

    def _by_graph(self, graphs: GraphsOnDemand, mel: Tensor) -> Tensor | None:
        """Return the hidden states of log-mel frames by a graph, or None if there is none that can be trusted.

        The graphs have one memory, and this method may be called in several streams: each waits for the one before.
        """
        if self._memory_used is not None:
            torch.cuda.current_stream().wait_event(self._memory_used)
        self._input[: len(mel)].copy_(mel)
        try:
            hidden = graphs.run(len(mel)).clone()
            if self._memory_used is not None:
                self._memory_used.record()
            return hidden
        except (RuntimeError, GraphMismatch) as exc:
            report_refusal(exc)
            self._graphs = None
            return None

    def encode(self, windows: Sequence[Window]) -> list[EncodedAudio]:
        """Return the encoded audio of each window. Windows padded to the same length are encoded together."""
        encoded: dict[Window, EncodedAudio] = {}
        for length, group in groupby(sorted(windows, key=self._encoder_samples), self._encoder_samples):
            equally_long = list(group)
            while equally_long:
                size = max(size for size in self.sizes if size <= len(equally_long))
                together = equally_long[:size]
                encoded |= zip(together, self._encode_batch(together, length), strict=True)
                del equally_long[:size]
        return [encoded[window] for window in windows]

    def _encode_batch(self, windows: Sequence[Window], length: int) -> list[EncodedAudio]:
        """Pad windows with silence to `length` samples, encode them in one batch, and return their encoded audio."""
        mel, outputs = self.forward(self._samples.send([window.samples for window in windows], length))
        strengths = onset_strength(mel)
        rows = zip(windows, outputs, strengths, strict=True)
        # Cloned, because a view would keep the memory of the whole batch alive.
        return [EncodedAudio(window.samples, audio.clone(), strength) for window, audio, strength in rows]

    def _encoder_samples(self, window: Window) -> int:
        """Return the number of samples to encode for a window, including the silence that pads it."""
        full = self._model.dims.window_samples
        if not self._short_context:
            return full
        seconds = max(MIN_CONTEXT_S, window.seconds + PADDING_S)
        return min(full, math.ceil(seconds / CONTEXT_STEP_S) * round(CONTEXT_STEP_S * SAMPLE_RATE))
