"""Decoding rules over the whole batch as tensors, and what the evidence of a text says. Knows no window, no cache and no request.

Each rule narrows what the next token of each row may be; `pick` then reads the logits once. Sources: openai/whisper,
whisper/decoding.py (SuppressTokens, SuppressBlank, ApplyTimestampRules).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.tokenizer import Specials

FIRST_TIMESTAMP_S = 1.0  # the first segment of a window begins within it


@dataclass(slots=True)
class History:
    """What the rules need to know of the tokens that each row has decoded so far. Every field is [B]."""

    count: Tensor  # tokens decoded, int64
    last: Tensor  # the last token
    before: Tensor  # the one before it
    timestamp: Tensor  # the last timestamp token, or the id below the first one
    until: Tensor  # a segment that begins with a timestamp token below this one has text: speech was heard behind it

    @classmethod
    def empty(cls, rows: int, specials: Specials, device: torch.device) -> "History":
        """No token yet."""

        def full(value: int) -> Tensor:
            return torch.full((rows,), value, dtype=torch.int64, device=device)

        return cls(full(0), full(0), full(0), full(specials.timestamp_begin - 1), full(0))

    def fields(self) -> tuple[Tensor, ...]:
        """The tensors, in order."""
        return self.count, self.last, self.before, self.timestamp, self.until

    def rows(self, part: slice) -> "History":
        """A view of some rows."""
        return History(*(field[part] for field in self.fields()))

    def append(self, token: Tensor, specials: Specials) -> None:
        """Take in each row's new token [B], in place."""
        self.count.add_(1)
        self.before.copy_(self.last)
        self.last.copy_(token)
        self.timestamp.copy_(torch.where(token >= specials.timestamp_begin, token, self.timestamp))


@dataclass(slots=True)
class Allowed:
    """What the next token of each row may be. Every field is [B]."""

    text: Tensor  # any text token, bool
    eot: Tensor  # the end of the text, bool
    first: Tensor  # least timestamp token, int64
    last: Tensor  # greatest timestamp token; below `first` where none may come

    @classmethod
    def anything(cls, history: History, specials: Specials) -> "Allowed":
        """Text, end and every timestamp."""
        yes = torch.ones_like(history.count, dtype=torch.bool)
        low = torch.full_like(history.count, specials.timestamp_begin)
        return cls(yes, yes, low, torch.full_like(low, specials.vocab - 1))


def begin_with_timestamp(allowed: Allowed, history: History, specials: Specials) -> Allowed:
    """The first token is a timestamp, not later than FIRST_TIMESTAMP_S."""
    begun = history.count > 0
    latest = specials.timestamp_begin + round(FIRST_TIMESTAMP_S / TIMESTAMP_S)
    last = torch.where(begun, allowed.last, allowed.last.clamp(max=latest))
    return Allowed(allowed.text & begun, allowed.eot & begun, allowed.first, last)


def timestamps_in_pairs(allowed: Allowed, history: History, specials: Specials) -> Allowed:
    """After a segment's end comes the next one's beginning or the end of the text; after a beginning comes text."""
    opened, closing = _pairing(history, specials)
    none = allowed.first - 1
    return Allowed(allowed.text & ~closing, allowed.eot, allowed.first, torch.where(opened, none, allowed.last))


def timestamps_in_order(allowed: Allowed, history: History, specials: Specials) -> Allowed:
    """Time never runs back, and no segment is empty: only the beginning of the next one may repeat an end."""
    _, closing = _pairing(history, specials)
    least = torch.where(closing, history.timestamp, history.timestamp + 1)
    return Allowed(allowed.text, allowed.eot, torch.maximum(allowed.first, least), allowed.last)


def speech_has_text(allowed: Allowed, history: History, specials: Specials) -> Allowed:
    """No text ends where a segment has just begun, and speech is heard behind it."""
    opened, _ = _pairing(history, specials)
    return Allowed(allowed.text, allowed.eot & ~(opened & (history.last < history.until)), allowed.first, allowed.last)


def _pairing(history: History, specials: Specials) -> tuple[Tensor, Tensor]:
    """Rows whose last token is a timestamp that begins a segment, and rows whose last one ends it. [B] bool each."""
    is_timestamp = (history.last >= specials.timestamp_begin) & (history.count >= 1)
    after_timestamp = (history.before >= specials.timestamp_begin) | (history.count < 2)
    return is_timestamp & after_timestamp, is_timestamp & ~after_timestamp


RULES = (begin_with_timestamp, timestamps_in_pairs, timestamps_in_order, speech_has_text)


def suppression(specials: Specials, ids: Iterable[int], device: torch.device) -> Tensor:
    """What is added to logits so that `ids`, and every special token but the end and the timestamps, never come. [n_vocab]"""
    bias = torch.zeros(specials.vocab, device=device)
    bias[list(ids)] = -torch.inf
    bias[specials.eot + 1 : specials.timestamp_begin] = -torch.inf
    bias[specials.eot] = 0.0
    return bias


@dataclass(slots=True)
class Choice:
    """What each row would say next, and what it is chosen from. Every field is [B]."""

    token: Tensor  # the likeliest one
    logprob: Tensor  # its log-probability among the allowed ones
    allowed: Allowed
    stamped: Tensor  # nothing but a timestamp may come, bool
    mass: Tensor  # log of the sum over the allowed ones


def pick(logits: Tensor, bias: Tensor, history: History, specials: Specials) -> Choice:
    """The likeliest allowed token of each row.

    logits [B, n_vocab] float32, overwritten; bias [n_vocab] or [B, n_vocab]. Where the timestamps together are likelier than any
    one text token, a timestamp comes: the last of the timestamp rules.
    """
    allowed = Allowed.anything(history, specials)
    for rule in RULES:
        allowed = rule(allowed, history, specials)
    logits += bias
    text, stamps = logits[:, : specials.eot], logits[:, specials.timestamp_begin :]
    ids = torch.arange(specials.timestamp_begin, specials.vocab, device=logits.device)
    stamps.masked_fill_((ids < allowed.first[:, None]) | (ids > allowed.last[:, None]), -torch.inf)
    stamp_mass = stamps.logsumexp(-1)
    stamp, stamp_id = stamps.max(-1)

    nothing = torch.full_like(stamp, -torch.inf)
    word, word_id = text.max(-1)
    word = torch.where(allowed.text, word, nothing)
    end = torch.where(allowed.eot, logits[:, specials.eot], nothing)
    told, told_id = torch.maximum(word, end), torch.where(end > word, specials.eot, word_id)
    told_mass = torch.where(allowed.text, text.logsumexp(-1), nothing).logaddexp(end)

    stamped = stamp_mass > told
    token = torch.where(stamped, stamp_id + specials.timestamp_begin, told_id)
    mass = torch.where(stamped, stamp_mass, stamp_mass.logaddexp(told_mass))
    logprob = torch.where(token >= specials.timestamp_begin, stamp, told) - mass
    return Choice(token, logprob, allowed, stamped, mass)


def log_probabilities(logits: Tensor, choice: Choice, rows: Tensor, specials: Specials) -> Tensor:
    """Log-probability of every token in `rows` [n] of the logits that `pick` has seen; −inf where it may not come. [n, n_vocab]"""
    chosen = logits[rows]
    stamped = choice.stamped[rows]
    chosen[:, : specials.eot].masked_fill_((stamped | ~choice.allowed.text[rows])[:, None], -torch.inf)
    chosen[:, specials.eot].masked_fill_(stamped | ~choice.allowed.eot[rows], -torch.inf)
    return chosen - choice.mass[rows, None]
