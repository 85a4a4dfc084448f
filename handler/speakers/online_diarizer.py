"""Find out who speaks while a stream goes on: stretch by stretch, speakers keep their numbers. Knows no word.

Each stretch is heard with what comes before it, as a chunk of a recording would be. The voices of all stretches are
grouped anew each time, and a group is the speaker whom most of its speech was given to before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from handler.schema.speakers import SpeakerActivity, SpeakerCount
from handler.schema.window import SAMPLE_RATE, Samples
from handler.speakers.chunk_diarizer import MIN_VOICE_S, ChunkDiarizer, SpeakerNetworks
from handler.speakers.clustering import Voice, group_voices
from handler.speakers.segmentation_network import CHUNK, FRAME_S

MAX_VOICES = 400  # that are compared; of more, the older half is kept as one voice a speaker


@dataclass(frozen=True, slots=True, eq=False)
class HeardStretch:
    """What the networks tell of a stretch, before its speakers are known."""

    samples: Samples
    diarizer: ChunkDiarizer  # which has heard what comes before the stretch, and the stretch
    first_frame: int  # of the stretch
    voices: tuple[int, ...]  # the numbers of those of its voices that are in the stretch


class OnlineChunkDiarizer:
    """Hears one stream, a stretch of speech at a time. What it keeps is limited. One thread must make all calls."""

    def __init__(self, networks: SpeakerNetworks) -> None:
        self._networks = networks
        self._context: Samples = np.zeros(0, np.float32)  # the end of what was added
        self._voices: list[Voice] = []
        self._speakers: list[int] = []  # of each voice
        self._num_chunks = 0
        self._num_speakers = 0

    def hear(self, samples: Samples) -> HeardStretch:
        """Hear the stretch that follows, [n] at 16 kHz. It counts once it is added, and may be heard again before."""
        num_before = max(0, CHUNK - len(samples))
        context = self._context[max(0, len(self._context) - num_before) :]
        diarizer = ChunkDiarizer(self._networks)
        diarizer.push(np.concatenate((context, samples)))
        diarizer.hear_rest()
        first_frame = round(len(context) / SAMPLE_RATE / FRAME_S)
        own = []
        for number, voice in enumerate(diarizer.voices()):
            start, end = diarizer.frames_of(voice)
            in_stretch = end - max(start, first_frame)
            if in_stretch * FRAME_S >= MIN_VOICE_S or 2 * in_stretch >= end - start:
                own.append(number)
        return HeardStretch(samples, diarizer, first_frame, tuple(own))

    def add(self, stretch: HeardStretch, count: SpeakerCount) -> SpeakerActivity:
        """Return who of how many speakers speaks when in a stretch that was heard, from its beginning on.

        Speakers are numbered in the order in which they are first heard, and keep their numbers.
        """
        heard = stretch.diarizer.voices()
        voices = [heard[number] for number in stretch.voices]
        new = [replace(voice, chunk=voice.chunk + self._num_chunks) for voice in voices]
        self._num_chunks += stretch.diarizer.num_chunks
        groups = group_voices([*self._voices, *new], count, self._networks.threshold) if new else []
        speakers = self._name(groups, [*self._voices, *new])
        self._voices += new
        self._speakers += speakers
        self._forget()
        self._context = np.concatenate((self._context, stretch.samples))[-CHUNK:]
        activity = stretch.diarizer.activity(voices, speakers, self._num_speakers)
        return replace(activity, active=activity.active[stretch.first_frame :])

    def _name(self, groups: Sequence[int], voices: Sequence[Voice]) -> list[int]:
        """Return the speaker of each new voice, by the groups of all. Groups without one get the next numbers."""
        num_known = len(self._speakers)
        shares = np.zeros((max(groups, default=-1) + 1, self._num_speakers))  # seconds of speech
        for group, speaker, voice in zip(groups, self._speakers, voices, strict=False):
            shares[group, speaker] += max(voice.solo_s, FRAME_S)
        pairs = zip(*linear_sum_assignment(-shares), strict=True)
        speaker_of = {int(group): int(speaker) for group, speaker in pairs if shares[group, speaker]}
        for group in groups[num_known:]:
            if group not in speaker_of:
                speaker_of[group] = self._num_speakers
                self._num_speakers += 1
        return [speaker_of[group] for group in groups[num_known:]]

    def _forget(self) -> None:
        """Keep the older half of too many voices as one voice a speaker."""
        if len(self._voices) <= MAX_VOICES:
            return
        half = MAX_VOICES // 2
        old = list(zip(self._voices[:half], self._speakers[:half], strict=True))
        kept: list[tuple[Voice, int]] = []
        for speaker in dict.fromkeys(number for _, number in old):
            own = [voice for voice, number in old if number == speaker and voice.vector is not None]
            vectors = [voice.vector * voice.solo_s for voice in own if voice.vector is not None]
            if vectors:
                total = np.sum(vectors, 0)
                solo_s = sum(voice.solo_s for voice in own)
                joined = replace(own[-1], solo_s=solo_s, vector=(total / np.linalg.norm(total)).astype(np.float32))
                kept.append((joined, speaker))
        self._voices[:half] = [voice for voice, _ in kept]
        self._speakers[:half] = [speaker for _, speaker in kept]
