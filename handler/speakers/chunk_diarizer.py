"""Find out who speaks when, chunk by chunk, with a network for turns, one for voices, and clustering.

Knows no file and no request. Source: pyannote.audio, pipelines/speaker_diarization.py.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handler.schema.option_parsers import MAX_SPEAKERS
from handler.schema.speakers import SpeakerActivity, SpeakerCount, by_first_turn, runs
from handler.schema.window import SAMPLE_RATE, Samples
from handler.speakers.clustering import Voice, group_voices
from handler.speakers.embedding_network import EmbeddingNetwork
from handler.speakers.filterbank import HOP, Filterbank
from handler.speakers.segmentation_network import CHUNK, FIRST_FRAME_S, FRAME_S, NUM_FRAMES, SegmentationNetwork

CHUNK_HOP = CHUNK * 3 // 4  # samples between the starts of two chunks
MAX_RUN_S = 4.0  # a longer run is divided, in case the speaker changes in it unnoticed
MIN_VOICE_S = 0.3  # what is shorter has no voice of its own, and belongs to its speaker's other runs
EMBEDDED_S = 1.6  # most seconds of sound that a voice's vector is made of
_FRAMES_AT_ONCE = 50_000  # whose votes are ranked together, which takes memory


@dataclass(frozen=True, slots=True)
class SpeakerNetworks:
    """The networks, on their device."""

    segmentation: SegmentationNetwork
    embedding: EmbeddingNetwork
    filterbank: Filterbank
    device: torch.device
    dtype: torch.dtype  # of the embedding network
    threshold: float  # a cosine distance, above which two voices are different


class ChunkSpeakerModel:
    """A speaker model that consists of these networks."""

    max_speakers = MAX_SPEAKERS

    def __init__(self, model_id: str, networks: SpeakerNetworks) -> None:
        self.model_id = model_id
        self._networks = networks

    def new_diarizer(self) -> "ChunkDiarizer":
        """Return what hears one recording."""
        return ChunkDiarizer(self._networks)


class ChunkDiarizer:
    """Hears one recording, and then tells who spoke when. What it keeps grows by some 6 kB a chunk."""

    def __init__(self, networks: SpeakerNetworks) -> None:
        self._networks = networks
        self._buffer: Samples = np.zeros(0, np.float32)
        self._num_samples = 0
        self._last: Samples = np.zeros(0, np.float32)  # the samples of the last chunk
        self._starts: list[int] = []  # the first sample of each chunk
        self._active: list[NDArray[np.bool_]] = []  # by chunk
        self._voices: list[Voice] = []

    def push(self, samples: Samples) -> None:
        """Hear more samples, [n] at 16 kHz."""
        self._num_samples += len(samples)
        self._buffer = np.concatenate((self._buffer, samples))
        while len(self._buffer) >= CHUNK:
            self._hear(self._num_samples - len(self._buffer), self._buffer[:CHUNK])
            self._last = self._buffer[:CHUNK]
            self._buffer = self._buffer[CHUNK_HOP:]

    def finish(self, count: SpeakerCount) -> SpeakerActivity:
        """Return who of how many speakers spoke when."""
        num_unheard = self._num_samples - (self._starts[-1] + CHUNK if self._starts else 0)
        if num_unheard:
            # The last chunk is a whole one that ends with the recording, unless all of that is shorter.
            before = np.concatenate((self._last, self._buffer[CHUNK - CHUNK_HOP :] if self._starts else self._buffer))
            end = before[-CHUNK:]
            self._hear(self._num_samples - len(end), np.pad(end, (0, CHUNK - len(end))))
        return self._activity(group_voices(self._voices, count, self._networks.threshold))

    def _hear(self, first_sample: int, samples: Samples) -> None:
        """Hear a chunk, which begins with this sample of the recording."""
        networks = self._networks
        with torch.inference_mode():
            on_device = torch.from_numpy(samples.copy()).to(networks.device)[None]
            active = networks.segmentation(on_device)[0].cpu().numpy()
            features = networks.filterbank(on_device)[0]  # [T, bins]
            is_solo = active.sum(1) == 1
            for local in range(active.shape[1]):
                for start, end in _short_runs(active[:, local]):
                    self._voices.append(self._voice(local, start, end, features, active[:, local] & is_solo))
        self._active.append(active)
        self._starts.append(first_sample)

    def _voice(self, local: int, start: int, end: int, features: Tensor, is_solo: NDArray[np.bool_]) -> Voice:
        """Return the voice that is heard in a run of frames, by what is said in it while nobody else speaks."""
        scale = len(features) / NUM_FRAMES
        first, last = int(start * scale), int(end * scale)
        weights = np.repeat(is_solo[start:end], np.diff((np.arange(start, end + 1) * scale).astype(int)))
        length = min(last - first, round(EMBEDDED_S * SAMPLE_RATE / HOP))
        said = np.cumsum(np.concatenate(([0], weights)))  # up to each feature frame
        sums = said[length:] - said[: len(said) - length]
        best = np.flatnonzero(sums == sums.max())
        at = int(best[len(best) // 2])  # where most is said; in the middle, which is the surest
        solo_s = float(sums.max()) * HOP / SAMPLE_RATE
        voice = Voice(len(self._active), local, start, end, solo_s)
        if solo_s < MIN_VOICE_S:
            return voice
        networks = self._networks
        told = torch.from_numpy(weights[at : at + length].astype(np.float32)).to(networks.device)[None]
        part = features[None, first + at : first + at + length].to(networks.dtype)
        vector = networks.embedding(part, told)[0].float().cpu().numpy()
        return replace(voice, vector=vector / np.linalg.norm(vector))

    def _activity(self, groups: list[int]) -> SpeakerActivity:
        """Add up what overlapping chunks tell: so many speak as they tell in the mean, those whom most of them name."""
        total = ceil(self._num_samples / SAMPLE_RATE / FRAME_S) + 1
        num_speakers = max(groups, default=-1) + 1
        votes = np.zeros((total, num_speakers), np.float32)
        seen, speaking = np.zeros(total, np.float32), np.zeros(total, np.float32)
        firsts = [round(start / SAMPLE_RATE / FRAME_S) for start in self._starts]
        spans = [slice(first, min(first + NUM_FRAMES, total)) for first in firsts]
        for active, span in zip(self._active, spans, strict=True):
            seen[span] += 1
            speaking[span] += active[: span.stop - span.start].sum(1)
        for voice, group in zip(self._voices, groups, strict=True):
            span = spans[voice.chunk]
            run = slice(span.start + voice.start, min(span.start + voice.end, total))
            votes[run, group] += 1
        number = np.rint(speaking / np.maximum(seen, 1))
        is_active = np.zeros(votes.shape, bool)
        for start in range(0, total, _FRAMES_AT_ONCE):
            rows = slice(start, start + _FRAMES_AT_ONCE)
            rank = (-votes[rows]).argsort(1, kind="stable").argsort(1, kind="stable")
            is_active[rows] = (rank < number[rows, None]) & (votes[rows] > 0)
        order = by_first_turn(is_active)
        return SpeakerActivity(is_active[:, order], FRAME_S, FIRST_FRAME_S - FRAME_S / 2)


def _short_runs(active: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the (start, end) of each run of frames in which somebody speaks, divided where it is long."""
    parts: list[tuple[int, int]] = []
    for start, end in runs(active):
        count = ceil((end - start) * FRAME_S / MAX_RUN_S)
        edges = np.linspace(start, end, count + 1).round().astype(int).tolist()
        parts += list(pairwise(edges))
    return parts
