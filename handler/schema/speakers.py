"""Who of some speakers speaks when, and the protocol of what finds it out. Knows no network and no word."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from handler.schema.window import Samples

MIN_PAUSE_S = 0.5  # a shorter pause of a speaker does not end the turn
MIN_TURN_S = 0.1  # what is shorter is no turn
MAX_GAP_S = 2.0  # a word further away from any turn has no speaker


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch in which one speaker speaks. Those of different speakers may overlap."""

    start: float  # seconds from the beginning of the audio
    end: float
    speaker: int  # counted from 0, in the order of first turns


@dataclass(frozen=True, slots=True, eq=False)
class SpeakerActivity:
    """Who speaks in each frame. The first frame begins at `start_s` of the audio, and each lasts `frame_s`."""

    active: NDArray[np.bool_]  # [frames, speakers]
    frame_s: float
    start_s: float = 0.0
    voices: NDArray[np.float32] | None = None  # [speakers, d], of length 1, or 0 if unknown; None if there are none
    names: Mapping[int, str] = field(default_factory=dict)  # of speakers who are known

    @property
    def num_speakers(self) -> int:
        """Return how many speakers there are."""
        return int(self.active.shape[1])

    def starting_at(self, seconds: float) -> "SpeakerActivity":
        """Return the same activity that many seconds later."""
        return replace(self, start_s=self.start_s + seconds)

    def turns(self) -> list[Turn]:
        """Return all turns, in the order of their starts. Short pauses of a speaker are part of a turn."""
        turns: list[Turn] = []
        for speaker in range(self.num_speakers):
            spans: list[tuple[float, float]] = []
            for start, end in runs(self.active[:, speaker]):
                start_s, end_s = self.start_s + start * self.frame_s, self.start_s + end * self.frame_s
                if spans and start_s - spans[-1][1] < MIN_PAUSE_S:
                    spans[-1] = (spans[-1][0], end_s)
                else:
                    spans.append((start_s, end_s))
            turns += [Turn(start, end, speaker) for start, end in spans if end - start >= MIN_TURN_S]
        return sorted(turns, key=lambda turn: (turn.start, turn.speaker))

    def speakers_at(self, start: float, end: float) -> list[tuple[int, float]]:
        """Return each speaker who is heard between two times with the share of that time, the most present first."""
        first = max(0, int((start - self.start_s) / self.frame_s))
        last = max(first + 1, round((end - self.start_s) / self.frame_s))
        frames = self.active[first:last]
        if not len(frames):
            return []
        shares = frames.mean(0)
        order = sorted(np.flatnonzero(shares).tolist(), key=lambda speaker: (-shares[speaker], speaker))
        return [(speaker, float(shares[speaker])) for speaker in order]

    def nearest(self, start: float, end: float) -> int | None:
        """Return who speaks nearest to a stretch in which nobody does, or None if nobody does within MAX_GAP_S."""
        first, last = ((time - self.start_s) / self.frame_s for time in (start, end))
        reach = MAX_GAP_S / self.frame_s
        begin = max(0, int(first - reach))
        rows, speakers = self.active[begin : max(0, int(last + reach) + 1)].nonzero()
        if not len(rows):
            return None
        distances = np.maximum(np.maximum(first - (rows + begin) - 1, rows + begin - last), 0)
        nearest = int(distances.argmin())
        return int(speakers[nearest]) if distances[nearest] <= reach else None


def runs(active: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the (start, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], active.astype(np.int8), [0]))))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def by_first_turn(active: NDArray[np.bool_]) -> list[int]:
    """Return the speakers who speak at all, in the order in which they begin."""
    speakers: list[int] = np.flatnonzero(active.any(0)).tolist()
    return sorted(speakers, key=lambda speaker: int(active[:, speaker].argmax()))


@dataclass(frozen=True, slots=True)
class SpeakerCount:
    """How many speakers there are: from `low` to `high`, which is None if nobody knows."""

    low: int = 1
    high: int | None = None


class Diarizer(Protocol):
    """Hears one recording, and then tells who spoke when. A single thread must make all calls."""

    def push(self, samples: Samples) -> None:
        """Hear more samples, [n] at 16 kHz."""

    def finish(self, count: SpeakerCount) -> SpeakerActivity:
        """Return who of how many speakers spoke when."""


class OnlineDiarizer(Protocol):
    """Hears one stream, a stretch of speech at a time. A single thread must make all calls."""

    def hear(self, samples: Samples) -> Any:
        """Hear the stretch that follows, [n] at 16 kHz. Return what `add` takes; other stretches may be heard instead.

        What is returned counts once it is added.
        """

    def add(self, stretch: Any, count: SpeakerCount) -> SpeakerActivity:
        """Return who of how many speakers speaks when in a stretch, from its beginning on.

        Speakers are numbered in the order in which they are first heard, and keep their numbers.
        """


class SpeakerModel(Protocol):
    """A model that tells speakers apart."""

    model_id: str
    max_speakers: int  # in one recording
    hears_streams: bool  # there are online diarizers
    compares_voices: bool  # speakers of different recordings can be compared, by SpeakerActivity.voices

    def new_diarizer(self) -> Diarizer:
        """Return what hears one recording."""

    def new_online_diarizer(self) -> OnlineDiarizer | None:
        """Return what hears one stream, or None if the model hears whole recordings only."""
