"""Detect speech in a stream of samples, frame by frame, with Silero's network. Knows no window and no file.

The network adapts to what it hears. At the start of a stream, and even more after music or noise, it needs up to
several seconds until it takes speech for speech, and the first words would be lost. Therefore the seconds before an
onset are heard again by the network as it is after silence, which detects speech at once. Only these seconds are: a
network after silence also takes the beginning of a hum or of music for speech, which a second pass before detected
speech cannot turn into a window.
"""

import numpy as np
from numpy.typing import NDArray

from handler.audio.chunking import SPEECH_ON
from handler.audio.leveling import Leveler
from handler.audio.silero import CONTEXT, FEATURES, FRAME, State, load_silero
from handler.schema.window import SAMPLE_RATE, Samples

_BLOCK = 256  # frames processed together, few enough for the cache of a processor
_ONSET_FRAMES = SAMPLE_RATE // 4 // FRAME + 1  # frames of speech in a row that are no chance: a quarter of a second
_ADAPTED_FRAMES = 2 * SAMPLE_RATE // FRAME  # frames without speech after which the network detects speech late: 2 s
_PASS_STEP = SAMPLE_RATE // 2 // FRAME  # frames between the starts of two second passes: half a second
_PASSES = 6
_LOOK_BACK = _PASSES * _PASS_STEP  # frames before an onset that are heard again: 3 s


class VoiceActivity:
    """Detects speech in one stream of samples, with one probability for every `frame` samples.

    The probability of a frame is returned once it is final: a second later while somebody speaks, else about 3 s later.
    """

    frame = FRAME

    def __init__(self) -> None:
        self._network = load_silero()
        self._leveler = Leveler(FRAME)
        # The last CONTEXT samples before the incomplete frame, followed by the samples of the incomplete frame.
        self._buffer: Samples = np.zeros(CONTEXT, np.float32)
        self._state: State | None = None
        self._features = np.zeros((0, FEATURES), np.float32)  # of the frames whose probabilities are held back
        self._held: NDArray[np.float32] = np.zeros(0, np.float32)  # probabilities that a second pass may raise
        self._run = 0  # frames of speech in a row, up to the last frame
        self._since_speech = _ADAPTED_FRAMES  # frames since the last one of a run of _ONSET_FRAMES

    @property
    def provisional(self) -> NDArray[np.float32]:
        """The probabilities of the frames heard since the last one whose probability is final. [frames]"""
        return self._held

    def push(self, samples: Samples) -> NDArray[np.float32]:
        """Add samples, and return the probability of speech in each frame for which it is now final. [frames]"""
        buffer = np.concatenate((self._buffer, samples))
        frames = (len(buffer) - CONTEXT) // FRAME
        self._buffer = buffer[frames * FRAME :]
        final = [np.zeros(0, np.float32)]
        for start in range(0, frames, _BLOCK):
            self._hear(buffer[start * FRAME :], min(_BLOCK, frames - start))
            final.append(self._release(self._next_onset() - _LOOK_BACK))
        return np.concatenate(final)

    def finish(self) -> NDArray[np.float32]:
        """End the stream, pad the incomplete last frame with silence, and return the probabilities held back. [frames]

        Return an empty array if there were no samples.
        """
        padding = -(len(self._buffer) - CONTEXT) % FRAME
        return np.concatenate((self.push(np.zeros(padding, np.float32)), self._release(len(self._held))))

    def _hear(self, samples: Samples, count: int) -> None:
        """Append the probabilities of `count` frames to those held back. samples [CONTEXT + at least count * FRAME]"""
        gains = self._leveler.gains(samples[CONTEXT : CONTEXT + count * FRAME].reshape(count, FRAME))
        frames = np.lib.stride_tricks.sliding_window_view(samples, CONTEXT + FRAME)[::FRAME][:count]
        features = self._network.features(frames, gains)
        probabilities, self._state = self._network.probabilities(features[None], self._state)
        self._features = np.concatenate((self._features, features))
        first = len(self._held)
        self._held = np.concatenate((self._held, probabilities[0]))
        for onset in self._find_onsets(first):
            if onset > 0:
                self._hear_again(onset)

    def _find_onsets(self, first: int) -> list[int]:
        """Return the frames at which speech begins after a time without, seen from the frames from `first` on."""
        onsets: list[int] = []
        for index, is_speech in enumerate((self._held[first:] >= SPEECH_ON).tolist(), first):
            self._run = self._run + 1 if is_speech else 0
            self._since_speech += 1
            if self._run >= _ONSET_FRAMES:
                if self._since_speech - self._run >= _ADAPTED_FRAMES:
                    onsets.append(index + 1 - self._run)
                self._since_speech = 0
        return onsets

    def _next_onset(self) -> int:
        """Return the first frame, counted from the first one held back, that may turn out to be an onset."""
        count = len(self._held)
        return max(count - self._run, count - self._since_speech + _ADAPTED_FRAMES)

    def _hear_again(self, onset: int) -> None:
        """Raise the probabilities before the frame `onset` to those of a network that heard only silence before.

        A pass that begins shortly before the speech detects it best, but where the speech begins is not known.
        Therefore several passes begin at different frames, and the highest probability counts.
        """
        starts = sorted({max(0, onset - _LOOK_BACK + number * _PASS_STEP) for number in range(_PASSES)})
        longest = onset - starts[0]
        features = np.zeros((len(starts), longest, FEATURES), np.float32)  # what follows a shorter pass is not used
        for row, start in zip(features, starts, strict=True):
            row[: onset - start] = self._features[start:onset]
        silent = self._network.state_after_silence
        state = State(*(np.repeat(part, len(starts), 0) for part in silent))
        probabilities, _ = self._network.probabilities(features, state)
        for row, start in zip(probabilities, starts, strict=True):
            held = self._held[start:onset]
            np.maximum(held, row[: onset - start], out=held)

    def _release(self, count: int) -> NDArray[np.float32]:
        """Return the first `count` probabilities held back, and hold them back no longer; none if not positive."""
        count = max(0, count)
        released, self._held = self._held[:count], self._held[count:]
        self._features = self._features[count:]
        return released
