"""Decode one window completely, with temperature fallback and a second attempt at speech without text.

Knows no source of audio.
"""

from dataclasses import replace

from handler.audio.silence import trim_silence
from handler.errors import Internal
from handler.schema.options import Options
from handler.schema.transcript import Segment, Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.transcription.coverage import WORD_MARGIN_S, describe_interval, find_gaps, plausible_span
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.engine_client import EngineClient
from handler.transcription.fallback import (
    Verdict,
    check_thresholds,
    fallback_temperatures,
    is_declining,
    is_finite,
    is_repetitive,
    is_unlikely,
    rank_key,
)
from handler.transcription.hallucination import (
    MAX_WORDS_PER_S,
    find_prompt_echo,
    is_speakable,
    is_spoken_in,
    remove_repeats,
    spoken_length,
)
from handler.transcription.timeless_words import ends_timeless, remove_timeless_repeats
from handler.transcription.word_edits import all_words, keep_words, letters_and_digits, normalize_word, to_audio_time

MAX_CONTEXT_CHARS = 2000  # limit for the prompt and for the hotwords, which is more than a model reads
DEFAULT_BEST_OF = 5  # hypotheses sampled at a temperature above 0, if the request sets no number
MIN_REMAINING_SPEECH_S = 0.3  # less speech than this after the decoded text belongs to the last word
MAX_TAIL_S = 0.6  # longest time by which the last word may outlast the reported end of its segment
MAX_BORDER_WORDS = 3  # most words at each end of a gap's text that may repeat the surrounding text


class WindowDecoder:
    """Decodes the windows of one request on an engine whose batch holds `max_batch_size` sequences."""

    def __init__(self, engine: EngineClient, options: Options, max_batch_size: int) -> None:
        self._engine = engine
        self._options = options
        self._best_of = options.best_of or min(DEFAULT_BEST_OF, max_batch_size)
        self._search_params = {
            "patience": options.patience,
            "length_penalty": options.length_penalty,
            "suppress": options.suppress_tokens,
        }

    async def decode(self, window: Window) -> DecodedWindow:
        """Decode a window, and return its segments in chronological order.

        Each stretch of speech for which no text was decoded is decoded once more on its own. Phrases that repeat too
        often are then removed, unless all of the text has passed the fallback thresholds.
        """
        decoded = await self._decode_to_end(window)
        for start, end in find_gaps(window.speech, decoded.segments):
            await self._fill_gap(window, decoded, start, end)
        if not decoded.is_accepted:
            decoded.segments = remove_repeats(decoded.segments)
        return decoded

    async def _fill_gap(self, window: Window, decoded: DecodedWindow, start: float, end: float) -> None:
        """Decode the gap from `start` to `end`, in seconds, and insert the text into `decoded` if it is accepted."""
        first = round((start - WORD_MARGIN_S) * SAMPLE_RATE)
        part = window.part(first, round((end + WORD_MARGIN_S) * SAMPLE_RATE))
        if not decoded.segments and len(part.samples) == len(window.samples):
            return  # the same window would give the same result
        language = window.params.language
        if not language and decoded.segments:
            language = decoded.segments[0].language
        gap = await self._decode_to_end(part.with_params(language=language))
        if gap.is_accepted:  # the model skipped this speech once, so only text that it is sure of may fill the gap
            new_segments = _without_border_words(gap.segments, decoded.segments, start)
            decoded.segments = _insert(new_segments, decoded.segments, start)
            decoded.warnings += gap.warnings

    async def _decode_to_end(self, window: Window) -> DecodedWindow:
        """Decode a window. If the engine stops before the end of the window, decode the rest in the same way."""
        decoded = DecodedWindow(window.start, window.end, window.speech, window.channel)
        parts = [window]
        while parts:
            part = parts[0]
            result, is_accepted = await self._decode_with_fallback(part)
            decoded.segments += to_audio_time(part, result)
            decoded.is_accepted = decoded.is_accepted and is_accepted
            parts = self._remaining(part, result)
            if self._options.condition_on_previous_text:
                text = f"{window.params.prompt} {''.join(segment.text for segment in decoded.segments)}"
                parts = [remaining.with_params(prompt=text[-MAX_CONTEXT_CHARS:]) for remaining in parts]
            if not parts:
                decoded.warnings += _truncation_warnings(part, result)
        decoded.segments.sort(key=lambda segment: segment.start)
        return decoded

    def _remaining(self, window: Window, result: WindowResult) -> list[Window]:
        """Return a list with the part of a window that `result` leaves undecoded, or [] if it is not worth decoding."""
        if not result.seek_s:
            return []
        # The end of a segment is approximate. The last word may end later, and must not be decoded a second time.
        last_word_end = max((plausible_span(word)[1] for word in all_words(result.segments)), default=0.0)
        seek_s = max(result.seek_s, min(last_word_end, result.seek_s + MAX_TAIL_S))
        remaining = window.part(window.start + round(seek_s * SAMPLE_RATE), window.end)
        remaining = remaining.with_params(language=result.language)
        if self._options.vad and remaining.speech_s < MIN_REMAINING_SPEECH_S:
            return []
        return trim_silence(remaining)

    async def _decode_with_fallback(self, window: Window) -> tuple[WindowResult, bool]:
        """Decode at rising temperatures until a result is accepted.

        Return the result and True, or the best result and False if none is accepted. The segments are removed from the
        result if the window is judged to contain no speech. Raises Internal if all results have numbers that are not
        finite: such a text is no transcript.
        """
        best: WindowResult | None = None
        for temperature in fallback_temperatures(self._options):
            result = await self._decode_once(window, temperature)
            verdict = self._judge(result)
            if verdict is Verdict.DROP:
                return replace(result, segments=(), seek_s=None), True
            if verdict is Verdict.ACCEPT:
                return await self._without_prompt_echo(window, result, is_accepted=True)
            is_last = best is not None and (
                self._confirms(best, result) or is_declining(best.evidence, result.evidence, temperature, self._options)
            )
            if best is None or self._rank_key(window, result) > self._rank_key(window, best):
                best = result
            if is_last:
                break
        assert best is not None
        # Without the tokens that a request suppresses, no token may be left that has a probability.
        if best.evidence is not None and not is_finite(best.evidence) and not self._options.suppress_tokens:
            raise Internal("the device computes no finite numbers: it is faulty, or the weights are")
        is_unsure = best.evidence is not None and is_unlikely(best.evidence, self._options)
        if is_unsure and not window.speech:  # voice activity detection found no speech either
            return replace(best, segments=(), seek_s=None), False
        return await self._without_prompt_echo(window, best, is_accepted=False)

    def _judge(self, result: WindowResult) -> Verdict:
        """Return whether to accept a result, by its evidence and by the times of its words."""
        if result.evidence is None:
            return Verdict.ACCEPT
        verdict = check_thresholds(result.evidence, self._options)
        return Verdict.RETRY if verdict is Verdict.ACCEPT and ends_timeless(result.segments) else verdict

    def _confirms(self, best: WindowResult, result: WindowResult) -> bool:
        """Return whether a result has the same repetitive but likely text as the best result of lower temperatures.

        What is repeated was then said again and again, and higher temperatures would find the same.
        """
        if not all(self._is_only_repetitive(each) for each in (best, result)):
            return False
        texts = ["".join(segment.text for segment in each.segments) for each in (best, result)]
        return letters_and_digits(texts[0]) == letters_and_digits(texts[1])

    def _is_only_repetitive(self, result: WindowResult) -> bool:
        evidence = result.evidence
        if evidence is None or evidence.looped or is_unlikely(evidence, self._options):
            return False
        return is_repetitive(evidence, self._options) and is_speakable(all_words(result.segments))

    async def _decode_once(self, window: Window, temperature: float) -> WindowResult:
        """Decode a window with beam search at temperature 0, or with sampling above 0.

        A phrase that was said once and written twice is written once in the result.
        """
        num_hypotheses = self._options.beam_size if temperature == 0 else self._best_of
        result = await self._engine.submit(
            window.with_params(temperature=temperature, num_hypotheses=num_hypotheses, **self._search_params)
        )
        return replace(result, segments=tuple(remove_timeless_repeats(result.segments)))

    def _rank_key(self, window: Window, result: WindowResult) -> tuple[object, ...]:
        """Return a key that sorts rejected results from worst to best.

        Results with numbers that are not finite rank lowest, and then those with more words than a person can speak in
        the window's seconds of speech.
        """
        assert result.evidence is not None
        max_words = MAX_WORDS_PER_S * (window.speech_s or window.seconds)
        is_speakable = spoken_length(all_words(result.segments)) <= max_words
        return (is_finite(result.evidence), is_speakable, *rank_key(result.evidence, self._options))

    async def _without_prompt_echo(
        self, window: Window, result: WindowResult, is_accepted: bool
    ) -> tuple[WindowResult, bool]:
        """Return the result, or a new one if the result repeats words of its prompt or hotwords that nobody spoke.

        If the result contains words of these texts, the window is decoded again without the texts. The new result is
        returned if the words are missing in it, because then nobody spoke them. The second value is whether the
        returned result is accepted.
        """
        context = [text for text in (window.params.prompt, window.params.hotwords) if text]
        echo = find_prompt_echo(result.segments, context) if context else []
        if not echo:
            return result, is_accepted
        bare_window = window.with_params(prompt="", hotwords="")
        unprompted, is_unprompted_accepted = await self._decode_with_fallback(bare_window)
        if is_spoken_in(echo, unprompted.segments):
            return result, is_accepted
        return unprompted, is_unprompted_accepted


def _truncation_warnings(window: Window, result: WindowResult) -> list[tuple[float, str]]:
    """Return a list with one (start in seconds, warning) if the text of a window was cut short, or an empty list."""
    evidence = result.evidence
    if evidence is None or not result.segments or not (evidence.looped or evidence.exhausted):
        return []
    reason = "more was said than could be decoded"
    if evidence.looped:
        reason = "the text began to repeat itself and was cut"
    start, end = window.start / SAMPLE_RATE, window.end / SAMPLE_RATE
    return [(start, f"{describe_interval(start, end, window.channel)} {reason}: words may be missing")]


def _without_border_words(new_segments: list[Segment], segments: list[Segment], start: float) -> list[Segment]:
    """Return `new_segments` without first and last words that `segments` has right before and after `start` seconds."""
    words = all_words(segments)
    earlier = [word for word in words if word.start < start]
    later = [word for word in words if word.start >= start]
    new_words = all_words(new_segments)
    repeated = new_words[: _num_common(earlier, new_words)]
    repeated += new_words[len(new_words) - _num_common(new_words, later) :]
    repeated_ids = {id(word) for word in repeated}
    return keep_words(new_segments, lambda word: id(word) not in repeated_ids)


def _num_common(first: list[Word], second: list[Word]) -> int:
    """Return how many words at the end of `first` equal the beginning of `second`, up to MAX_BORDER_WORDS."""
    suffix = [normalize_word(word) for word in first[-MAX_BORDER_WORDS:]]
    prefix = [normalize_word(word) for word in second[:MAX_BORDER_WORDS]]
    for count in range(min(len(suffix), len(prefix)), 0, -1):
        if suffix[-count:] == prefix[:count]:
            return count
    return 0


def _insert(new_segments: list[Segment], segments: list[Segment], start: float) -> list[Segment]:
    """Return all segments by start time. Those of `segments` with words on both sides of `start` seconds are split."""
    parts: list[Segment] = []
    for segment in segments:
        if segment.words:
            parts += keep_words([segment], lambda word: word.start < start)
            parts += keep_words([segment], lambda word: word.start >= start)
        else:
            parts.append(segment)
    return sorted([*parts, *new_segments], key=lambda segment: segment.start)
