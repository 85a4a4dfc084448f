"""One window to its text: decode, judge, decode again or on, look for what was missed. Knows no source of audio and no door."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from handler.audio.silence import trim_silence
from handler.schema.options import Options
from handler.schema.transcript import Segment, Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.transcription.coverage import REACH_S, between, gaps, lasting
from handler.transcription.fallback import Verdict, check_thresholds, fallback_temperatures, rank_key
from handler.transcription.hallucination import FASTEST, echo, is_heard_in, spoken_length, remove_repeats
from handler.transcription.word_edits import keep_words, place_segments, plain, words_of

CONTEXT = 2000  # characters of prompt or hotwords: more than the tokens that a model reads of them
BEST_OF = 5  # texts sampled at a temperature above 0, where the request does not say
LEAST_REST_S = 0.3  # less speech than this at the end of a window is the end of what was understood
LONGEST_TAIL_S = 0.6  # the last word goes on no longer than this behind where its segment is said to end
BORDER = 3  # words at the ends of a gap that may have been said already

Submit = Callable[[Window], Awaitable[WindowResult]]


@dataclass(slots=True)
class DecodedWindow:
    """What a window or a part of it says."""

    segments: list[Segment] = field(default_factory=list)
    accepted: bool = True  # all of it passed the thresholds
    warnings: list[tuple[float, str]] = field(default_factory=list)  # what may be wrong with the text, each with its second


class WindowDecoder:
    """Reads the windows of one request on an engine with `rows` rows."""

    def __init__(self, submit: Submit, options: Options, rows: int) -> None:
        self._submit = submit
        self._options = options
        self._best_of = options.best_of or min(BEST_OF, rows)
        self._ranking = {"patience": options.patience, "length_penalty": options.length_penalty, "suppress": options.suppress_tokens}

    async def read(self, window: Window) -> DecodedWindow:
        """All that is said in a window, in order; speech that got no text is decoded once more on its own."""
        first = await self._through(window)
        segments = first.segments
        warnings = list(first.warnings)
        for start, end in gaps(window.speech, segments):
            part = window.part(round((start - REACH_S) * SAMPLE_RATE), round((end + REACH_S) * SAMPLE_RATE))
            if not segments and len(part.samples) == len(window.samples):
                continue  # the same window once more would say the same
            again = await self._through(part.with_params(language=window.params.language or (segments[0].language if segments else None)))
            if again.accepted:  # the model passed over it once: what is said of it now has to be good
                segments = _inserted(_new(again.segments, segments, start), segments, start)
                warnings += again.warnings
        return DecodedWindow(segments if first.accepted else remove_repeats(segments), first.accepted, warnings)

    async def _through(self, window: Window) -> DecodedWindow:
        """A window, and what the engine left of it."""
        found = DecodedWindow()
        todo = [window]
        while todo:
            part = todo[0]
            result, accepted = await self._attempts(part)
            found.segments += place_segments(part, result)
            found.accepted = found.accepted and accepted
            todo = self._rest(part, result)
            if self._options.condition_on_previous_text:
                said = f"{window.params.prompt} {''.join(segment.text for segment in found.segments)}"
                todo = [rest.with_params(prompt=said[-CONTEXT:]) for rest in todo]
            if result.evidence is not None and result.segments and not todo and (result.evidence.looped or result.evidence.exhausted):
                what = "the text began to repeat itself and was cut" if result.evidence.looped else "more was said than could be decoded"
                begin, end = part.start / SAMPLE_RATE, part.end / SAMPLE_RATE
                found.warnings.append((begin, f"{between(begin, end, part.channel)} {what}: words may be missing"))
        found.segments.sort(key=lambda segment: segment.start)
        return found

    def _rest(self, window: Window, result: WindowResult) -> list[Window]:
        """What is left of a window behind its result, where it is worth decoding."""
        if not result.seek_s:
            return []
        # A segment's end is told roughly: the last word may go on behind it, and is not to be heard again.
        said = max((lasting(word)[1] for word in words_of(result.segments)), default=0.0)
        at = max(result.seek_s, min(said, result.seek_s + LONGEST_TAIL_S))
        rest = window.part(window.start + round(at * SAMPLE_RATE), window.end).with_params(language=result.language)
        if self._options.vad and rest.speech_s < LEAST_REST_S:
            return []
        return trim_silence(rest)

    async def _attempts(self, window: Window) -> tuple[WindowResult, bool]:
        """The text of a window at the first temperature at which it is accepted, else the best one; whether it was accepted."""
        best: WindowResult | None = None
        for temperature in fallback_temperatures(self._options):
            rows = self._options.beam_size if temperature == 0 else self._best_of
            result = await self._submit(window.with_params(temperature=temperature, num_hypotheses=rows, **self._ranking))
            verdict = check_thresholds(result.evidence, self._options) if result.evidence is not None else Verdict.ACCEPT
            if verdict is Verdict.DROP:
                return replace(result, segments=(), seek_s=None), True
            if verdict is Verdict.ACCEPT:
                return await self._unechoed(window, result, True)
            if best is None or self._merit(window, result) > self._merit(window, best):
                best = result
        assert best is not None
        unsure = best.evidence is not None and best.evidence.avg_logprob < self._options.logprob_threshold
        if unsure and not window.speech:  # nobody else hears speech there either
            return replace(best, segments=(), seek_s=None), False
        return await self._unechoed(window, best, False)

    def _merit(self, window: Window, result: WindowResult) -> tuple[object, ...]:
        """What orders results none of which was accepted."""
        assert result.evidence is not None
        sayable = spoken_length(words_of(result.segments)) <= FASTEST * (window.speech_s or window.seconds)
        return (sayable, *rank_key(result.evidence, self._options))

    async def _unechoed(self, window: Window, result: WindowResult, accepted: bool) -> tuple[WindowResult, bool]:
        """The result, unless it reads out its context: words that are not heard without it. Then the result without context."""
        context = [text for text in (window.params.prompt, window.params.hotwords) if text]
        if not context or not (run := echo(result.segments, context)):
            return result, accepted
        bare, bare_accepted = await self._attempts(window.with_params(prompt="", hotwords=""))
        return (result, accepted) if is_heard_in(run, bare.segments) else (bare, bare_accepted)


def _new(found: list[Segment], known: list[Segment], start: float) -> list[Segment]:
    """Of what was found in a gap that begins at `start`, seconds, the words that were not known from around it."""
    before = [word for word in words_of(known) if word.start < start]
    after = [word for word in words_of(known) if word.start >= start]
    said = words_of(found)
    gone = {id(word) for word in (*said[: _shared(before, said)], *said[len(said) - _shared(said, after) :])}
    return keep_words(found, lambda word: id(word) not in gone)


def _shared(first: list[Word], second: list[Word]) -> int:
    """How many words, at most BORDER, the one ends and the other begins with."""
    ends, begins = [plain(word) for word in first[-BORDER:]], [plain(word) for word in second[:BORDER]]
    return next((n for n in range(min(len(ends), len(begins)), 0, -1) if ends[-n:] == begins[:n]), 0)


def _inserted(new: list[Segment], known: list[Segment], start: float) -> list[Segment]:
    """Segments with others put in at `start`, seconds; a segment that goes on over it is parted there."""
    parted: list[Segment] = []
    for segment in known:
        if segment.words:
            parted += keep_words([segment], lambda word: word.start < start)
            parted += keep_words([segment], lambda word: word.start >= start)
        else:
            parted.append(segment)
    return sorted([*parted, *new], key=lambda segment: segment.start)
