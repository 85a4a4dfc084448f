"""Find out who speaks when with a network that tells it for every frame: Sortformer, as Nemotron 3 has it.

Speakers are numbered in the order in which they first speak, by a cache of what was heard of each, so nothing is
clustered. Knows no file and no request. Sources: Park et al., Sortformer, 2024; transformers,
models/nemotron3_diarization (whose forward over a whole recording is done here block by block).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handler.schema.speakers import SpeakerActivity, SpeakerCount, by_first_turn
from handler.schema.window import SAMPLE_RATE, Samples

THRESHOLD = 0.5  # probability from which a speaker is heard
_MODE = "whole"  # the blocks of a recording that is not live


@dataclass(frozen=True, slots=True, eq=False)
class FrameNetwork:
    """The network of transformers on its device, and its processor."""

    network: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype

    def __post_init__(self) -> None:
        config = self.network.config
        self.processor.streaming_modes = {_MODE: (config.chunk_length, config.chunk_right_context)}
        self.processor.set_streaming_mode(_MODE)

    def new_cache(self) -> Any:
        """Return the cache of what will be heard of each speaker, of the size that a whole recording gets."""
        from transformers.models.nemotron3_diarization.modeling_nemotron3_diarization import (
            Nemotron3DiarizationSpeakerCache,
        )

        config = self.network.config
        return Nemotron3DiarizationSpeakerCache(
            config.streaming_config,
            fifo_length=config.fifo_length,
            speaker_cache_update_period=config.speaker_cache_update_period,
        )


class FrameSpeakerModel:
    """A speaker model that consists of such a network."""

    hears_streams = False
    compares_voices = False  # it tells who is who in one recording alone

    def __init__(self, model_id: str, network: FrameNetwork) -> None:
        self.model_id = model_id
        self.max_speakers: int = network.network.config.head_config.num_speakers
        self._network = network

    def new_diarizer(self) -> "FrameDiarizer":
        """Return what hears one recording."""
        return FrameDiarizer(self._network)

    def new_online_diarizer(self) -> None:
        """Return None: blocks of half a minute are too long for speech that is told at once."""


class FrameDiarizer:
    """Hears one recording in blocks, 27 s with 3 s ahead in the published model. Keeps a bit a speaker and frame."""

    def __init__(self, network: FrameNetwork) -> None:
        self._network = network
        self._cache = network.new_cache()
        extractor = network.processor.feature_extractor
        self._hop: int = extractor.hop_length
        self._half_window: int = extractor.n_fft // 2
        self._buffer: Samples = np.zeros(0, np.float32)
        self._start = 0  # the sample of the recording that the buffer begins with
        self._num_frames = 0  # that are told
        self._active: list[NDArray[np.bool_]] = []

    def push(self, samples: Samples) -> None:
        """Hear more samples, [n] at 16 kHz."""
        self._buffer = np.concatenate((self._buffer, samples))
        processor = self._network.processor
        while True:
            is_first = self._num_frames == 0
            size = processor.num_samples_first_audio_chunk if is_first else processor.num_samples_per_audio_chunk
            # One more sample than a block needs, so that the last block is never empty.
            if len(self._buffer) <= size:
                return
            self._hear(self._buffer[:size], is_last=False)
            self._num_frames += processor.num_mel_frames_per_step
            start = self._hop * self._num_frames - self._half_window
            self._buffer = self._buffer[start - self._start :]
            self._start = start

    def finish(self, count: SpeakerCount) -> SpeakerActivity:
        """Return who spoke when: those who spoke most, if there may not be as many as were heard."""
        if len(self._buffer):
            self._hear(self._buffer, is_last=True)
        num_speakers = self._network.network.config.head_config.num_speakers
        active = np.concatenate([np.zeros((0, num_speakers), bool), *self._active])
        if count.high is not None:
            loudest = np.argsort(-active.sum(0), kind="stable")[: count.high]
            active = active[:, np.sort(loudest)]
        return SpeakerActivity(active[:, by_first_turn(active)], self._hop / SAMPLE_RATE)

    def _hear(self, samples: Samples, is_last: bool) -> None:
        network = self._network
        is_first = self._num_frames == 0
        inputs = network.processor(
            samples,
            sampling_rate=SAMPLE_RATE,
            is_streaming=True,
            is_first_audio_chunk=is_first,
            is_last_audio_chunk=is_last,
        )
        features = inputs["input_features"].to(network.device, network.dtype)
        if not features.shape[1]:
            return
        with torch.inference_mode():
            output = network.network(
                input_features=features,
                speaker_cache=self._cache,
                num_lookahead_frames=inputs.get("num_lookahead_frames", 0),
            )
        self._cache = output.speaker_cache
        self._active.append((output.logits[0].float().sigmoid() >= THRESHOLD).cpu().numpy())
