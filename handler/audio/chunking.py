"""Find spans of speech from the probabilities of speech, and cut the audio into windows between words.

Knows no network and no file.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from handler.audio.silence import quietest_cut, trim_silence
from handler.audio.silero import FRAME
from handler.schema.window import SAMPLE_RATE, Samples, Window

# Speech begins at a probability of SPEECH_ON or more and ends at one below SPEECH_OFF, as in Silero's code.
SPEECH_ON, SPEECH_OFF = 0.5, 0.35
MIN_SPAN_S = 0.1  # shorter sounds are taken for clicks
MIN_PAUSE_S = 0.1  # shorter pauses are taken for part of a word
PAD_S = 0.4  # seconds kept before and after speech, because the network detects an onset late
MAX_PAUSE_S = 3.0  # a longer pause ends a window, because models hallucinate in silence

Span = tuple[int, int]  # start and end (exclusive), in frames


def _decide_speech(probabilities: NDArray[np.float32], speaking: bool, threshold: float) -> NDArray[np.bool_]:
    """Return whether each frame is speech. A frame that decides neither way is what the frame before it was. [n]"""
    undecided, speech, silence = 0, 1, -1
    decisions = np.full(len(probabilities) + 1, undecided)
    decisions[0] = speech if speaking else silence
    decisions[1:][probabilities >= threshold] = speech
    decisions[1:][probabilities < max(threshold - (SPEECH_ON - SPEECH_OFF), threshold / 2)] = silence
    numbers = np.arange(len(decisions))
    decisive = np.maximum.accumulate(np.where(decisions != undecided, numbers, 0))  # the frame that decides each
    return decisions[decisive[1:]] == speech  # type: ignore[no-any-return]


def speech_spans(
    probabilities: NDArray[np.float32], frame_s: float, speaking: bool = False, threshold: float = SPEECH_ON
) -> list[Span]:
    """Return the spans of speech, in frames and in chronological order, or an empty list if there is no speech.

    `probabilities` [n] holds the probability of speech in each frame of `frame_s` seconds. `speaking` says whether
    there was speech right before the first frame. Speech begins at the probability `threshold`.
    """
    is_speech = np.concatenate(([False], _decide_speech(probabilities, speaking, threshold), [False]))
    edges = np.flatnonzero(is_speech[1:] != is_speech[:-1]).reshape(-1, 2)
    spans: list[Span] = []
    for start, end in edges.tolist():
        if spans and (start - spans[-1][1]) * frame_s < MIN_PAUSE_S:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return [(start, end) for start, end in spans if (end - start) * frame_s >= MIN_SPAN_S]


class Detector(Protocol):
    """A voice activity detector for one stream of samples, which may need the samples after a frame to judge it."""

    frame: int  # samples per probability

    def push(self, samples: Samples) -> NDArray[np.float32]:
        """Add samples, and return the probability of speech in each frame for which it is now final. [frames]"""

    def finish(self) -> NDArray[np.float32]:
        """End the stream, and return the probabilities of all remaining frames, the incomplete last one included."""


class DetectedElsewhere:
    """A detector whose probabilities somebody else passes on, with the samples or later."""

    frame = FRAME

    def __init__(self) -> None:
        self._waiting: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]

    def pass_on(self, probabilities: NDArray[np.float32]) -> None:
        """Add probabilities of the frames that follow. [frames]"""
        if len(probabilities):
            self._waiting.append(probabilities)

    def push(self, samples: Samples) -> NDArray[np.float32]:
        """Return the probabilities that were passed on since the last call. [frames]"""
        return self.finish()

    def finish(self) -> NDArray[np.float32]:
        """Return the probabilities that were passed on since the last call. [frames]"""
        waiting, self._waiting = self._waiting, [np.zeros(0, np.float32)]
        return np.concatenate(waiting)


class SpeechChunker:
    """Cuts a stream of samples into windows of at most `longest_s` seconds, and leaves out audio without speech.

    A window may contain several spans of speech with the pauses between them. A window ends at the first pause longer
    than `max_pause_s`. If there is no such pause, a full window ends at the longest pause in its last `stride_s`
    seconds. If these seconds have no pause, the window ends at the last pause before them. Speech that goes on for
    longer than a window is cut in the last `stride_s` seconds of the window, at the frame with the lowest probability
    of speech. If even this frame sounds like speech, the window keeps its full length, and the next window begins
    `stride_s` before the end of this one. The two windows then overlap, so that a word at the border is complete in one
    of them. With `overlaps` false, it is cut at this frame nonetheless: words without times cannot be told apart.

    With `everything`, audio without speech is kept, and only inaudible audio is left out. A full window is then cut at
    the quietest point of its last `stride_s` seconds.
    """

    def __init__(
        self,
        longest_s: float,
        stride_s: float,
        detector: Detector,
        *,
        everything: bool = False,
        overlaps: bool = True,
        max_pause_s: float = MAX_PAUSE_S,
        channel: int | None = None,
        start: int = 0,
        threshold: float = SPEECH_ON,
    ) -> None:
        """Create a chunker. The first sample that is pushed lies `start` samples after the beginning of the audio.

        Speech begins at the probability `threshold`.
        """
        self._threshold = threshold
        self._detector = detector
        self._everything = everything
        self._overlaps = overlaps
        self._channel = channel
        self._frame = frame = detector.frame
        self._max_frames = round(longest_s * SAMPLE_RATE) // frame
        self._stride = max(1, round(stride_s * SAMPLE_RATE) // frame)
        self._pad = round(PAD_S * SAMPLE_RATE) // frame
        self._max_pause = round(max_pause_s * SAMPLE_RATE) // frame
        self._samples: Samples = np.zeros(0, np.float32)
        self._blocks: list[Samples] = []  # samples that follow `_samples`, not yet concatenated
        self._probabilities: NDArray[np.float32] = np.zeros(0, np.float32)
        self._start = start  # position of the first buffered sample in the audio
        self._speaking = False  # whether the last window ended in the middle of speech

    @property
    def watermark_s(self) -> float:
        """Return a time before which no later window begins, in seconds from the beginning of the audio."""
        return self._start / SAMPLE_RATE

    def push(self, block: Samples) -> list[Window]:
        """Add samples, and return the windows that are now complete."""
        self._buffer(block, self._detector.push(block))
        return self._take_windows(final=False)

    def finish(self) -> list[Window]:
        """End the stream, and return the remaining windows."""
        self._buffer(np.zeros(0, np.float32), self._detector.finish())
        return self._take_windows(final=True)

    def _buffer(self, samples: Samples, probabilities: NDArray[np.float32]) -> None:
        self._blocks.append(samples)
        self._probabilities = np.concatenate((self._probabilities, probabilities))

    def _take_windows(self, final: bool) -> list[Window]:
        """Take all complete windows off the buffer, or all windows if no more samples will come (`final`)."""
        windows: list[Window] = []
        min_frames = 1 if final else self._max_frames + self._pad
        while len(self._probabilities) >= min_frames:
            if self._blocks:
                self._samples = np.concatenate((self._samples, *self._blocks))
                self._blocks.clear()
            spans = speech_spans(self._probabilities, self._frame / SAMPLE_RATE, self._speaking, self._threshold)
            windows += self._window_of_everything(spans) if self._everything else self._window_of_speech(spans, final)
        return windows

    def _window_of_everything(self, spans: list[Span]) -> list[Window]:
        """Cut a window off the start of the buffer without regard to speech, and return a list with the window.

        `spans` are only recorded in the window, and do not affect the cut. Inaudible audio is then trimmed from the
        start and the end of the window. Return an empty list if the whole window is inaudible.
        """
        count = len(self._probabilities)
        if count > self._max_frames:
            cut_sample = quietest_cut(self._samples[: self._max_frames * self._frame], self._stride * self._frame)
            count = cut_sample // self._frame
        speaking = any(start < count < end for start, end in spans)
        window = self._take_window(count, count, spans)
        self._speaking = speaking
        return trim_silence(window)

    def _window_of_speech(self, spans: list[Span], final: bool) -> list[Window]:
        """Take the window that begins at the first span of speech off the buffer, and drop the audio before it.

        Return an empty list if the buffer has no speech. Return an empty list as well if samples that have not arrived
        may belong to the window. With `final`, no more samples will arrive.
        """
        if not spans:
            padding = 0 if final else self._pad
            self._release(len(self._probabilities) - padding)
            return []
        silence = max(0, spans[0][0] - self._pad)
        self._release(silence)
        if not final and len(self._probabilities) < self._max_frames + self._pad:
            return []
        spans = [(start - silence, end - silence) for start, end in spans]
        end, next_start = self._find_end(spans)
        is_cut = next_start <= end  # the window ends in the middle of speech
        middle = (end + next_start) // 2  # middle of the pause after the window
        count = end if is_cut else min(end + self._pad, middle, self._max_frames, len(self._probabilities))
        window = self._take_window(count, min(count, next_start), spans)
        self._speaking = is_cut
        return [window]

    def _take_window(self, count: int, released: int, spans: list[Span]) -> Window:
        """Return the first `count` frames as a window, and remove the first `released` frames from the buffer."""
        samples = self._samples[: count * self._frame].copy()
        speech = tuple(
            (self._start + max(start, 0) * self._frame, self._start + min(end, count) * self._frame)
            for start, end in spans
            if start < count
        )
        overlap = max(0, len(samples) - released * self._frame)
        window = Window(self._start, samples, speech, self._channel, overlap=overlap)
        self._release(released)
        return window.part(window.start, window.end)

    def _find_end(self, spans: list[Span]) -> Span:
        """Return the frame at which the speech of the first window ends, and the frame at which the next speech begins.

        The window begins at frame 0 of the buffer. The two frames are equal if the window ends in the middle of speech.
        The second frame lies before the first if two windows have to overlap.
        """
        unknown = len(self._probabilities) + 2 * self._pad  # stands for the start of the speech after the buffer
        starts = [*(start for start, _ in spans[1:]), unknown]
        pauses = [(end, start) for (_, end), start in zip(spans, starts, strict=True) if end <= self._max_frames]
        for end, start in pauses:
            if start - end > self._max_pause and start < unknown:
                return end, start
        if not pauses:
            return self._cut_speech()
        if pauses[-1][1] == unknown:
            return pauses[-1]
        candidates = [pause for pause in pauses if pause[0] > self._max_frames - self._stride] or pauses[-1:]
        return max(candidates, key=lambda pause: pause[1] - pause[0])

    def _cut_speech(self) -> Span:
        """Return the end of a full window of unbroken speech, and the start of the next window, in frames.

        Both are the frame with the lowest probability of speech in the last `stride_s` seconds of the window. If even
        this frame is speech, the window keeps its full length, and the next one begins `stride_s` before this one ends.
        """
        first = self._max_frames - self._stride
        quietest = first + int(self._probabilities[first : self._max_frames].argmin())
        is_cut = self._probabilities[quietest] < self._threshold or not self._overlaps
        return (quietest, quietest) if is_cut else (self._max_frames, first)

    def _release(self, count: int) -> None:
        """Remove the first `count` frames from the buffer. Nothing is removed if `count` is not positive."""
        if count > 0:
            self._speaking = False
            self._probabilities = self._probabilities[count:]
            self._samples = self._samples[count * self._frame :]
            self._start += count * self._frame
