"""Find out who speaks while a stream goes on: stretch by stretch, speakers keep their numbers. Knows no word.

Each stretch is heard with what comes before it, as a chunk of a recording would be. The voices of all stretches are
grouped anew each time, and a group is the speaker to whom most of its speech was given before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from handler.schema.speakers import SpeakerActivity, SpeakerCount
from handler.schema.window import SAMPLE_RATE, Samples
from handler.speakers.chunk_diarizer import MIN_VOICE_S, ChunkDiarizer, SpeakerNetworks
from handler.speakers.clustering import Voice, group_voices, middle_voices
from handler.speakers.segmentation_network import CHUNK, FRAME_S

MAX_VOICES = 400  # that are compared; of more, some of the older half are kept of each speaker


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
        diarizer.flush()
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

        Speakers are numbered in the order in which they are first heard, and keep their numbers. There may be fewer
        than `count` says, since not all of them may have spoken yet.
        """
        heard = stretch.diarizer.voices()
        voices = sorted((heard[number] for number in stretch.voices), key=stretch.diarizer.frames_of)
        new = [replace(voice, chunk=voice.chunk + self._num_chunks) for voice in voices]
        self._num_chunks += stretch.diarizer.num_chunks
        speakers = self._speakers_of(new, count)
        self._voices += new
        self._speakers += speakers
        self._forget()
        self._context = np.concatenate((self._context, stretch.samples))[-CHUNK:]
        activity = stretch.diarizer.activity(voices, speakers, self._num_speakers)
        return replace(activity, active=activity.active[stretch.first_frame :])

    def _speakers_of(self, new: Sequence[Voice], count: SpeakerCount) -> list[int]:
        """Return the speaker of each new voice, by the groups of all voices.

        A group is the speaker of whom it has most speech, unless another group has more of theirs. A group without a
        speaker is somebody new, or whoever resembles it most if there may be nobody new.
        """
        if not new:
            return []
        voices = [*self._voices, *new]
        groups = group_voices(voices, SpeakerCount(1, count.high), self._networks.threshold)
        shares: dict[tuple[int, int], float] = {}  # seconds of speech of each group and speaker
        for group, speaker, voice in zip(groups, self._speakers, voices, strict=False):
            shares[group, speaker] = shares.get((group, speaker), 0.0) + max(voice.solo_s, FRAME_S)
        speaker_of: dict[int, int] = {}
        for group, speaker in sorted(shares, key=lambda pair: -shares[pair]):
            if group not in speaker_of and speaker not in speaker_of.values():
                speaker_of[group] = speaker
        own = groups[len(self._speakers) :]
        for group in own:
            if group not in speaker_of:
                if count.high is not None and self._num_speakers >= count.high:
                    speaker_of[group] = self._most_similar(group, groups, voices)
                else:
                    speaker_of[group] = self._num_speakers
                    self._num_speakers += 1
        return [speaker_of[group] for group in own]

    def _most_similar(self, group: int, groups: Sequence[int], voices: Sequence[Voice]) -> int:
        """Return the known speaker whose voices resemble those of a group most."""
        middle = middle_voices(voices, groups)[group]
        known = middle_voices(self._voices, self._speakers)
        return int((known @ middle).argmax()) if known.size else 0

    def _forget(self) -> None:
        """Keep some of the longest of the older half of too many voices, as many of each speaker."""
        if len(self._voices) <= MAX_VOICES:
            return
        half = MAX_VOICES // 2
        by_speaker: dict[int, list[int]] = {}
        for index in range(half):
            by_speaker.setdefault(self._speakers[index], []).append(index)
        share = max(1, half // 2 // len(by_speaker))
        kept: list[int] = []
        for own in by_speaker.values():
            kept += sorted(own, key=lambda index: -self._voices[index].solo_s)[:share]
        kept.sort()
        self._voices[:half] = [self._voices[index] for index in kept]
        self._speakers[:half] = [self._speakers[index] for index in kept]
