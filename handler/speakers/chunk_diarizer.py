"""Find out who speaks when, chunk by chunk, with a network for turns, one for voices, and clustering.

Knows no file and no request. Source: pyannote.audio, pipelines/speaker_diarization.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from handler.schema.speakers import SpeakerActivity, SpeakerCount, by_first_turn, runs
from handler.schema.window import SAMPLE_RATE, Samples
from handler.speakers.clustering import Voice, group_voices, middle_voices
from handler.speakers.embedding_network import DIMENSIONS, EmbeddingNetwork
from handler.speakers.filterbank import HOP, Filterbank
from handler.speakers.growing_array import GrowingArray
from handler.speakers.quantized_embedding import QuantizedEmbedding
from handler.speakers.segmentation_network import (
    CHUNK,
    FIRST_FRAME_S,
    FRAME_S,
    NUM_FRAMES,
    NUM_LOCAL,
    SegmentationNetwork,
)

CHUNK_HOP = CHUNK * 8 // 10  # samples between the starts of two chunks
CHUNKS_AT_ONCE = 4  # which takes a third less time than one by one
MAX_RUN_S = 4.0  # a longer run is divided, in case the speaker changes in it unnoticed
MIN_VOICE_S = 0.3  # what is shorter has no voice of its own, and belongs to its speaker's other runs
EMBEDDED_S = 1.6  # of sound that a voice's vector is made of, at most
EMBEDDED_FRAMES = round(EMBEDDED_S * SAMPLE_RATE / HOP)  # of features
EMBEDDED_AT_ONCE = 16  # voices
_FRAMES_AT_ONCE = 50_000  # whose votes are ranked together; ranks take 16 times the memory of votes


@dataclass(frozen=True, slots=True)
class SpeakerNetworks:
    """The networks, on their device."""

    segmentation: SegmentationNetwork
    embedding: EmbeddingNetwork | QuantizedEmbedding
    filterbank: Filterbank
    device: torch.device
    dtype: torch.dtype  # of the features that the embedding network takes
    threshold: float  # a cosine distance, above which two voices are different


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A part of the recording that the networks hear as a whole."""

    start: int  # its first sample in the recording
    samples: Samples  # [CHUNK], or fewer if the recording is shorter


@dataclass(frozen=True, slots=True)
class _EmbeddingInput:
    """What the vector of a voice is made of."""

    voice: int  # the number of the voice
    features: Tensor  # [EMBEDDED_FRAMES, bins]
    weights: NDArray[np.float32]  # [EMBEDDED_FRAMES]; 1 where the speaker speaks alone


class ChunkDiarizer:
    """Hears one recording, and then tells who spoke when. What it keeps grows by some 6 kB a chunk."""

    def __init__(self, networks: SpeakerNetworks) -> None:
        self._networks = networks
        self._buffer: Samples = np.zeros(0, np.float32)
        self._num_samples = 0
        self._last: Samples = np.zeros(0, np.float32)  # the samples of the last chunk
        self._starts: list[int] = []  # the first sample of each chunk
        self._active = GrowingArray((NUM_FRAMES, NUM_LOCAL), np.bool_)  # by chunk
        self._voices: list[Voice] = []  # without vectors
        self._vectors = GrowingArray((DIMENSIONS,), np.float32)
        self._heard: list[int] = []  # the number of the voice of each vector

    def push(self, samples: Samples) -> None:
        """Hear more samples, [n] at 16 kHz."""
        self._num_samples += len(samples)
        self._buffer = np.concatenate((self._buffer, samples))
        while len(self._buffer) >= CHUNK + (CHUNKS_AT_ONCE - 1) * CHUNK_HOP:
            self._hear([self._next_chunk() for _ in range(CHUNKS_AT_ONCE)])

    def finish(self, count: SpeakerCount) -> SpeakerActivity:
        """Return who of how many speakers spoke when."""
        self.flush()
        voices = self.voices()
        groups = group_voices(voices, count, self._networks.threshold)
        activity = self.activity(voices, groups, max(groups, default=-1) + 1)
        order = by_first_turn(activity.active)
        middles = middle_voices(voices, groups)[order]
        return replace(activity, active=activity.active[:, order], voices=middles)

    def flush(self) -> None:
        """Hear what is left: the recording is over."""
        chunks = []
        while len(self._buffer) >= CHUNK:
            chunks.append(self._next_chunk())
        last_end = chunks[-1].start + CHUNK if chunks else self._starts[-1] + CHUNK if self._starts else 0
        if last_end < self._num_samples:
            # The last chunk is a whole one that ends with the recording, unless all of that is shorter.
            before = np.concatenate((self._last, self._buffer[CHUNK - CHUNK_HOP :] if last_end else self._buffer))
            end = before[-CHUNK:]
            chunks.append(_Chunk(self._num_samples - len(end), end))
        if chunks:
            self._hear(chunks)

    @property
    def num_chunks(self) -> int:
        """How many chunks have been heard."""
        return len(self._starts)

    def voices(self) -> list[Voice]:
        """Return the voices that have been heard."""
        voices = self._voices.copy()
        for number, vector in zip(self._heard, self._vectors.rows(), strict=True):
            voices[number] = replace(voices[number], vector=vector)
        return voices

    def frames_of(self, voice: Voice) -> tuple[int, int]:
        """Return the (start, end) of a voice in frames from the beginning of the recording."""
        first = self._first_frame(voice.chunk)
        return first + voice.start, first + voice.end

    def _first_frame(self, chunk: int) -> int:
        return round(self._starts[chunk] / SAMPLE_RATE / FRAME_S)

    def _next_chunk(self) -> _Chunk:
        """Take the next chunk from the buffer."""
        chunk = _Chunk(self._num_samples - len(self._buffer), self._buffer[:CHUNK])
        self._last, self._buffer = chunk.samples, self._buffer[CHUNK_HOP:]
        return chunk

    def _hear(self, chunks: Sequence[_Chunk]) -> None:
        networks = self._networks
        with torch.inference_mode():
            lengths = [len(chunk.samples) for chunk in chunks]
            padded = [np.pad(chunk.samples, (0, CHUNK - len(chunk.samples))) for chunk in chunks]
            on_device = torch.from_numpy(np.stack(padded)).to(networks.device)
            active = networks.segmentation(on_device).cpu().numpy()
            features = networks.filterbank(on_device, lengths)  # [B, T, bins]
            inputs: list[_EmbeddingInput] = []
            for chunk, chunk_active, chunk_features in zip(chunks, active, features, strict=True):
                self._find_voices(chunk_active, chunk_features, inputs)
                self._starts.append(chunk.start)
            self._active.append(active)
            for first in range(0, len(inputs), EMBEDDED_AT_ONCE):
                self._embed(inputs[first : first + EMBEDDED_AT_ONCE])

    def _find_voices(self, active: NDArray[np.bool_], features: Tensor, inputs: list[_EmbeddingInput]) -> None:
        """Note the voices of a chunk, without vectors, and add what these are to be made of to `inputs`."""
        is_solo = active.sum(1) == 1
        scale = len(features) / NUM_FRAMES
        for local in range(active.shape[1]):
            for start, end in _short_runs(active[:, local]):
                # By what is said in the run while nobody else speaks.
                weights = np.zeros(len(features), np.float32)
                own = is_solo[start:end]
                weights[int(start * scale) : int(end * scale)] = np.repeat(
                    own, np.diff((np.arange(start, end + 1) * scale).astype(int))
                )
                said = np.cumsum(np.concatenate(([0], weights)))  # up to each feature frame
                sums = said[EMBEDDED_FRAMES:] - said[:-EMBEDDED_FRAMES]
                best = np.flatnonzero(sums == sums.max())
                at = int(best[len(best) // 2])  # where most is said; in the middle, which is the surest
                if sums[at] * HOP / SAMPLE_RATE >= MIN_VOICE_S:
                    part = slice(at, at + EMBEDDED_FRAMES)
                    inputs.append(_EmbeddingInput(len(self._voices), features[part], weights[part]))
                solo_s = float(said[-1]) * HOP / SAMPLE_RATE
                self._voices.append(Voice(len(self._starts), local, start, end, solo_s))

    def _embed(self, inputs: Sequence[_EmbeddingInput]) -> None:
        """Keep the vectors of the voices of some inputs."""
        networks = self._networks
        features = torch.stack([each.features for each in inputs]).to(networks.dtype)
        weights = torch.from_numpy(np.stack([each.weights for each in inputs])).to(networks.device)
        vectors = F.normalize(networks.embedding(features, weights).float(), dim=1).cpu().numpy()
        self._vectors.append(vectors)
        self._heard += [each.voice for each in inputs]

    def activity(self, voices: Sequence[Voice], speakers: Sequence[int], num_speakers: int) -> SpeakerActivity:
        """Return who speaks when, by the speakers of voices.

        Adds up what overlapping chunks tell: so many speak as they tell in the mean, those whom most of them name.
        """
        total = ceil(self._num_samples / SAMPLE_RATE / FRAME_S) + 1
        votes = np.zeros((total, num_speakers), np.uint8)
        seen, speaking = np.zeros(total, np.uint8), np.zeros(total, np.uint8)  # chunks, and speakers in them
        firsts = [self._first_frame(chunk) for chunk in range(self.num_chunks)]
        spans = [slice(first, min(first + NUM_FRAMES, total)) for first in firsts]
        for active, span in zip(self._active.rows(), spans, strict=True):
            seen[span] += 1
            speaking[span] += active[: span.stop - span.start].sum(1, dtype=np.uint8)
        for voice, speaker in zip(voices, speakers, strict=True):
            start, end = self.frames_of(voice)
            votes[start:end, speaker] += 1
        is_active = np.zeros(votes.shape, bool)
        for start in range(0, total, _FRAMES_AT_ONCE):
            rows = slice(start, start + _FRAMES_AT_ONCE)
            number = (speaking[rows] / np.maximum(seen[rows], 1)).round()
            rank = (-votes[rows].astype(np.int8)).argsort(1, kind="stable").argsort(1, kind="stable")
            is_active[rows] = (rank < number[:, None]) & (votes[rows] > 0)
        return SpeakerActivity(is_active, FRAME_S, FIRST_FRAME_S)  # from the middle of a frame to that of another


def _short_runs(active: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the (start, end) of each run of frames in which somebody speaks, divided where it is long."""
    parts: list[tuple[int, int]] = []
    for start, end in runs(active):
        count = ceil((end - start) * FRAME_S / MAX_RUN_S)
        edges = np.linspace(start, end, count + 1).round().astype(int).tolist()
        parts += list(pairwise(edges))
    return parts
