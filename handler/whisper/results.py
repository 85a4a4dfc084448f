"""A finished job to what it says: its text, its evidence, the times of its words. Knows no batch and no schedule."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, exp

import torch

from handler.schema.transcript import Evidence, Segment, Word
from handler.schema.window import SAMPLE_RATE, WindowResult
from handler.whisper.alignment import TokenTimes, peak_positions, alignment_costs, dtw, place_words
from handler.whisper.attention import AttentionRecorder
from handler.whisper.batch import DecodeTask
from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.kv_cache import Cache
from handler.whisper.model import Decoder
from handler.whisper.repetition import compression_ratio, loop_start
from handler.whisper.timestamps import TokenSegment, before_text_token, split_segments, complete_segments
from handler.whisper.tokenizer import Tokenizer
from handler.whisper.word_splitting import split_words


@dataclass(slots=True)
class _Text:
    """The text of a finished job."""

    parts: list[TokenSegment]
    seek_s: float | None
    evidence: Evidence | None
    logprobs: list[float]  # one for each decoded token


class ResultBuilder:
    """Reads finished jobs out while their slots still hold their audio; `heads` are those that follow the audio in time."""

    def __init__(self, decoder: Decoder, cache: Cache, tokenizer: Tokenizer, heads: tuple[tuple[int, int], ...]) -> None:
        self._decoder = decoder
        self._cache = cache
        self._tokenizer = tokenizer
        self._heads = heads

    def result(self, slot: int, job: DecodeTask) -> WindowResult:
        """What a job has come to, by whatever end. Its slot's text is overwritten."""
        if job.window.params.detect_only:
            return WindowResult((), None, job.language, job.languages)
        text = self._text(job)
        segments = tuple(self._segments(text, self._times(slot, job, text), job)) if text.parts else ()
        return WindowResult(segments, text.evidence, job.language, job.languages, text.seek_s)

    def _text(self, job: DecodeTask) -> _Text:
        """The text of a job up to where it is whole."""
        ids = self._tokenizer.specials
        best = job.best(ids)
        loop = loop_start(best.text(ids))
        tokens = best.tokens if loop is None else before_text_token(best.tokens, loop, ids)
        exhausted = loop is None and best.tokens[-1] != ids.eot
        evidence = Evidence(
            avg_logprob=best.score,
            no_speech_prob=job.no_speech_prob,
            compression_ratio=compression_ratio(self._tokenizer.decode(tokens)),
            temperature=job.window.params.temperature,
            tokens=len(best.tokens),
            looped=loop is not None,
            exhausted=exhausted,
        )
        parts, rest = split_segments(tokens, job.window.seconds, ids)
        if loop is not None or exhausted:
            parts, rest = complete_segments(parts)
        return _Text(parts, rest, evidence, best.logprobs)

    def _times(self, slot: int, job: DecodeTask, text: _Text) -> TokenTimes:
        """When each text token begins, the last one's end behind them, and when it is heard best.

        The tokens are read once more, without timestamps.
        """
        ids = self._tokenizer.specials
        head = [*job.prompt[job.prompt.index(ids.sot) :], ids.no_timestamps]
        # The first token is predicted at the last position of the head; its own position predicts the second.
        said = [token for part in text.parts for token in part.ids][: self._cache.context - len(head)]
        device = self._cache.k.device
        # Padded on the right, where nothing looks.
        end = len(head) + len(said)
        tokens = torch.tensor([[*head, *said, *[ids.eot] * (self._cache.length_for(end) - end)]], device=device)
        positions = torch.arange(tokens.shape[1], device=device)[None]
        length = min(job.positions, ceil(job.window.seconds / TIMESTAMP_S))
        recorder = AttentionRecorder(self._heads, length)
        self._decoder(tokens, positions, self._cache, slice(slot, slot + 1), tokens.shape[1], recorder)
        costs = alignment_costs(recorder.weights()[0, len(head) - 1 : end].cpu().numpy())
        begins = dtw(costs)
        places = (begins[:-1].tolist(), peak_positions(costs, begins)[: len(said)])
        return TokenTimes(*([at * TIMESTAMP_S for at in part] for part in places))

    def _segments(self, text: _Text, times: TokenTimes, job: DecodeTask) -> Iterator[Segment]:
        """Segments with their words, between the first and the last of which they lie."""
        window = job.window
        speech = [((start - window.start) / SAMPLE_RATE, (end - window.start) / SAMPLE_RATE) for start, end in window.speech]
        words = [split_words(part.ids, self._tokenizer) for part in text.parts]
        firsts = accumulate((len(part.ids) for part in text.parts), initial=0)
        places = [(first + piece.start, first + piece.end) for first, part in zip(firsts, words, strict=False) for piece in part]
        when = iter(place_words(places, times, job.onset_strength.cpu().numpy(), speech, window.seconds))
        for part, found in zip(text.parts, words, strict=True):
            timed = []
            for piece in found:
                chances = text.logprobs[part.at + int(piece.start) : part.at + ceil(piece.end)]
                own = range(ceil(piece.start), ceil(piece.end))
                tokens = tuple((part.ids[at], text.logprobs[part.at + at]) for at in own)
                timed.append(Word(*next(when), piece.text, sum(map(exp, chances)) / len(chances), tokens))
            yield Segment(
                timed[0].start, timed[-1].end, self._tokenizer.decode(part.ids), tuple(part.ids), text.evidence, tuple(timed), job.language
            )
