"""Probabilities of speech to spans of it, and spans to windows: packed, padded, cut between words. Knows no network and no file."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from handler.audio.silence import quietest_cut, trim_silence
from handler.schema.window import SAMPLE_RATE, Samples, Window

ON, OFF = 0.5, 0.35  # speech begins at a probability of ON and ends below OFF, as Silero's own code has it
LEAST_SPEECH_S = 0.1  # shorter sounds are clicks
LEAST_SILENCE_S = 0.1  # shorter pauses are part of a word
PAD_S = 0.4  # seconds kept before and behind speech: the network hears an onset late
LONGEST_GAP_S = 3.0  # a longer pause ends a window: what a model hears in silence, it invents

Span = tuple[int, int]  # first frame, and the frame behind the last one


def speech_spans(probabilities: NDArray[np.float32], frame_s: float, speaking: bool = False) -> list[Span]:
    """The spans of speech in the probabilities [n] of frames of `frame_s` seconds, in order; `speaking` is what was before them."""
    told = np.concatenate(([1 if speaking else -1], np.where(probabilities >= ON, 1, np.where(probabilities < OFF, -1, 0))))
    latest = np.maximum.accumulate(np.where(told != 0, np.arange(len(told)), 0))  # the last frame that told something
    speech = np.concatenate(([False], told[latest[1:]] == 1, [False]))
    edges = np.flatnonzero(speech[1:] != speech[:-1]).reshape(-1, 2)
    spans: list[Span] = []
    for start, end in edges.tolist():
        if spans and (start - spans[-1][1]) * frame_s < LEAST_SILENCE_S:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return [(start, end) for start, end in spans if (end - start) * frame_s >= LEAST_SPEECH_S]


class Detector(Protocol):
    """What hears speech in a stream of samples."""

    frame: int  # samples of one probability

    def push(self, samples: Samples) -> NDArray[np.float32]:
        """Take in more samples; the probabilities of the frames that are complete."""

    def finish(self) -> NDArray[np.float32]:
        """No more samples will come: the probability of the last frame, where there is one."""


class SpeechChunker:
    """Cuts a stream into windows of at most `longest_s` seconds that hold its speech, packed, and leaves out what is none.

    Speech that goes on for longer than a window is cut at the least likely frame within `stride_s` of its end; where no
    frame there sounds like a pause, the next window begins `stride_s` before the end of this one. With `everything`, only
    silence is left out, and a full window is cut at the quietest place within `stride_s` of its end.
    """

    def __init__(
        self, longest_s: float, stride_s: float, detector: Detector, *, everything: bool = False,
        longest_gap_s: float = LONGEST_GAP_S, channel: int | None = None, start: int = 0,
    ) -> None:  # fmt: skip
        """`start`: the place in the audio, samples, of the first sample that will be pushed."""
        self._detector = detector
        self._everything = everything
        self._channel = channel
        self._frame = frame = detector.frame
        self._longest = round(longest_s * SAMPLE_RATE) // frame  # frames
        self._stride = max(1, round(stride_s * SAMPLE_RATE) // frame)
        self._pad = round(PAD_S * SAMPLE_RATE) // frame
        self._gap = round(longest_gap_s * SAMPLE_RATE) // frame
        self._samples: Samples = np.zeros(0, np.float32)
        self._blocks: list[Samples] = []  # what has come since behind `_samples`
        self._probabilities: NDArray[np.float32] = np.zeros(0, np.float32)
        self._start = start  # place of the first held sample
        self._speaking = False  # the last window ended in the middle of speech

    @property
    def place_s(self) -> float:
        """No window to come begins before it, seconds."""
        return self._start / SAMPLE_RATE

    def push(self, block: Samples) -> list[Window]:
        """Take in more samples; give back the windows that are complete."""
        self._hold(block, self._detector.push(block))
        return self._cut(final=False)

    def finish(self) -> list[Window]:
        """No more samples will come: the windows that are left."""
        self._hold(np.zeros(0, np.float32), self._detector.finish())
        return self._cut(final=True)

    def _hold(self, samples: Samples, probabilities: NDArray[np.float32]) -> None:
        self._blocks.append(samples)
        self._probabilities = np.concatenate((self._probabilities, probabilities))

    def _cut(self, final: bool) -> list[Window]:
        windows: list[Window] = []
        while len(self._probabilities) >= (1 if final else self._longest + self._pad):
            if self._blocks:
                self._samples = np.concatenate((self._samples, *self._blocks))
                self._blocks.clear()
            spans = speech_spans(self._probabilities, self._frame / SAMPLE_RATE, self._speaking)
            windows += self._whole(spans) if self._everything else self._packed(spans, final)
        return windows

    def _whole(self, spans: list[Span]) -> list[Window]:
        """A window with everything that comes next; none where that is silent."""
        count = len(self._probabilities)
        if count > self._longest:
            count = quietest_cut(self._samples[: self._longest * self._frame], self._stride * self._frame) // self._frame
        speaking = any(start < count < end for start, end in spans)
        window = self._taken(count, count, spans)
        self._speaking = speaking
        return trim_silence(window)

    def _packed(self, spans: list[Span], final: bool) -> list[Window]:
        """A window with the speech that comes next; none where there is none, or where it is not whole yet."""
        if not spans:
            self._drop(len(self._probabilities) - (0 if final else self._pad))
            return []
        silence = max(0, spans[0][0] - self._pad)
        self._drop(silence)
        if not final and len(self._probabilities) < self._longest + self._pad:
            return []
        spans = [(start - silence, end - silence) for start, end in spans]
        end, following = self._end(spans)
        last = end if following <= end else min(end + self._pad, (end + following) // 2, self._longest, len(self._probabilities))
        window = self._taken(last, min(last, following), spans)
        self._speaking = following <= end
        return [window]

    def _taken(self, frames: int, forget: int, spans: list[Span]) -> Window:
        """The first `frames` as a window; the first `forget` of them are held no longer."""
        speech = [(max(start, 0), min(end, frames)) for start, end in spans if start < frames]
        places = tuple((self._start + start * self._frame, self._start + end * self._frame) for start, end in speech)
        samples = self._samples[: frames * self._frame].copy()
        window = Window(self._start, samples, places, self._channel, shared=max(0, len(samples) - forget * self._frame))
        self._drop(forget)
        return window.part(window.start, window.end)

    def _end(self, spans: list[Span]) -> Span:
        """Where the speech of the window at frame 0 ends, and where the next speech begins.

        Equal where speech itself is cut; the beginning comes before the end where windows have to overlap.
        """
        behind = len(self._probabilities) + 2 * self._pad  # stands for speech that has not come yet
        starts = [*(start for start, _ in spans[1:]), behind]
        fitting = [(end, start) for (_, end), start in zip(spans, starts, strict=True) if end <= self._longest]
        for end, start in fitting:
            if start - end > self._gap and start < behind:
                return end, start
        if not fitting:
            least = self._longest - self._stride
            cut = least + int(self._probabilities[least : self._longest].argmin())
            return (cut, cut) if self._probabilities[cut] < ON else (self._longest, least)
        if fitting[-1][1] == behind:
            return fitting[-1]
        late = [pair for pair in fitting if pair[0] > self._longest - self._stride] or fitting[-1:]
        return max(late, key=lambda pair: pair[1] - pair[0])

    def _drop(self, frames: int) -> None:
        """Forget the first frames."""
        if frames > 0:
            self._speaking = False
            self._probabilities = self._probabilities[frames:]
            self._samples = self._samples[frames * self._frame :]
            self._start += frames * self._frame
