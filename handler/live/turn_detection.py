"""Find where a speaker begins and ends, by the pauses of speech. Knows no text.

The three numbers and their defaults are those of `server_vad` in OpenAI's realtime API.
"""

from dataclasses import dataclass

from handler.audio.chunking import SPEECH_ON, speech_spans
from handler.audio.silero import FRAME
from handler.live.live_audio import AudioPart, to_samples
from handler.schema.window import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """When a turn begins and when it is over."""

    threshold: float = SPEECH_ON  # probability of speech from which on a frame is speech
    prefix_padding_s: float = 0.3  # audio before the first speech that belongs to the turn
    silence_duration_s: float = 0.5  # a turn is over after so much silence


@dataclass(frozen=True, slots=True)
class SpokenTurn:
    """The speech of a turn, in samples from the beginning of the stream."""

    speech_start: int
    speech_end: int  # so far, unless silence follows that is long enough


def find_turn(part: AudioPart, detection: TurnDetection) -> SpokenTurn | None:
    """Return the first turn in a stretch of audio that begins with silence, or None if nobody speaks in it."""
    spans = speech_spans(part.probabilities, FRAME / SAMPLE_RATE, threshold=detection.threshold)
    if not spans:
        return None
    silence = max(1, to_samples(detection.silence_duration_s) // FRAME)
    first, last = spans[0]
    for start, end in spans[1:]:
        if start - last >= silence:
            break
        last = end
    return SpokenTurn(part.start + first * FRAME, part.start + last * FRAME)
