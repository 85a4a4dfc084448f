"""Decoding rules over the whole batch at once, and the choice of the next token. Knows no window, no cache, no request.

Each rule narrows which token each sequence may continue with; `pick` then reads the logits once. B sequences. Sources:
openai/whisper, whisper/decoding.py (SuppressTokens, SuppressBlank, ApplyTimestampRules).
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
    """What the rules depend on of the tokens that each sequence has decoded. Every field is [B], int64."""

    count: Tensor  # tokens decoded
    last: Tensor  # the last token
    previous: Tensor  # the token before the last one
    last_timestamp: Tensor  # the last timestamp token, or the id below the first one
    text_required_until: Tensor  # a segment that begins with a timestamp token below it has text: speech follows

    @classmethod
    def empty(cls, size: int, specials: Specials, device: torch.device) -> "History":
        """Return the history of `size` sequences without a token."""

        def full(value: int) -> Tensor:
            return torch.full((size,), value, dtype=torch.int64, device=device)

        return cls(full(0), full(0), full(0), full(specials.timestamp_begin - 1), full(0))

    def fields(self) -> tuple[Tensor, ...]:
        """Return the tensors, in order."""
        return self.count, self.last, self.previous, self.last_timestamp, self.text_required_until

    def rows(self, slots: slice) -> "History":
        """Return a view of some slots."""
        return History(*(field[slots] for field in self.fields()))

    def append(self, token: Tensor, specials: Specials) -> None:
        """Add each sequence's new token [B], in place."""
        self.count.add_(1)
        self.previous.copy_(self.last)
        self.last.copy_(token)
        self.last_timestamp.copy_(torch.where(token >= specials.timestamp_begin, token, self.last_timestamp))


@dataclass(slots=True)
class AllowedTokens:
    """What the next token of each sequence may be. Every field is [B]."""

    text: Tensor  # any text token, bool
    eot: Tensor  # the end of the text, bool
    first_timestamp: Tensor  # least timestamp token, int64
    last_timestamp: Tensor  # greatest timestamp token; below `first_timestamp` if none may come

    @classmethod
    def unrestricted(cls, history: History, specials: Specials) -> "AllowedTokens":
        """Allow text, the end and every timestamp."""
        yes = torch.ones_like(history.count, dtype=torch.bool)
        first = torch.full_like(history.count, specials.timestamp_begin)
        return cls(yes, yes, first, torch.full_like(first, specials.vocab - 1))


def begin_with_timestamp(allowed: AllowedTokens, history: History, specials: Specials) -> AllowedTokens:
    """Require a timestamp as the first token, not later than FIRST_TIMESTAMP_S."""
    has_tokens = history.count > 0
    latest = specials.timestamp_begin + round(FIRST_TIMESTAMP_S / TIMESTAMP_S)
    last = torch.where(has_tokens, allowed.last_timestamp, allowed.last_timestamp.clamp(max=latest))
    return AllowedTokens(allowed.text & has_tokens, allowed.eot & has_tokens, allowed.first_timestamp, last)


def timestamps_in_pairs(allowed: AllowedTokens, history: History, specials: Specials) -> AllowedTokens:
    """Require the next segment's start or the end of the text after a segment's end, and no timestamp after a start."""
    is_start, is_end = _timestamp_roles(history, specials)
    none = allowed.first_timestamp - 1
    last = torch.where(is_start, none, allowed.last_timestamp)
    return AllowedTokens(allowed.text & ~is_end, allowed.eot, allowed.first_timestamp, last)


def timestamps_in_order(allowed: AllowedTokens, history: History, specials: Specials) -> AllowedTokens:
    """Require increasing timestamps, so that no segment is empty; only a segment's start may repeat the last end."""
    _, is_end = _timestamp_roles(history, specials)
    first = torch.where(is_end, history.last_timestamp, history.last_timestamp + 1)
    first = torch.maximum(allowed.first_timestamp, first)
    return AllowedTokens(allowed.text, allowed.eot, first, allowed.last_timestamp)


def speech_has_text(allowed: AllowedTokens, history: History, specials: Specials) -> AllowedTokens:
    """Forbid the end of the text right after a segment's start that speech follows."""
    is_start, _ = _timestamp_roles(history, specials)
    eot = allowed.eot & ~(is_start & (history.last < history.text_required_until))
    return AllowedTokens(allowed.text, eot, allowed.first_timestamp, allowed.last_timestamp)


def _timestamp_roles(history: History, specials: Specials) -> tuple[Tensor, Tensor]:
    """Return whether each sequence's last token is a timestamp that starts a segment, or one that ends it. [B] each."""
    is_timestamp = (history.last >= specials.timestamp_begin) & (history.count >= 1)
    follows_timestamp = (history.previous >= specials.timestamp_begin) | (history.count < 2)
    return is_timestamp & follows_timestamp, is_timestamp & ~follows_timestamp


RULES = (begin_with_timestamp, timestamps_in_pairs, timestamps_in_order, speech_has_text)


def allowed_tokens(history: History, specials: Specials) -> AllowedTokens:
    """Apply all rules."""
    allowed = AllowedTokens.unrestricted(history, specials)
    for rule in RULES:
        allowed = rule(allowed, history, specials)
    return allowed


def suppression(specials: Specials, ids: Iterable[int], device: torch.device) -> Tensor:
    """Return a bias for logits that suppresses `ids`, and special tokens except the end and timestamps. [n_vocab]"""
    bias = torch.zeros(specials.vocab, device=device)
    bias[list(ids)] = -torch.inf
    bias[specials.eot + 1 : specials.timestamp_begin] = -torch.inf
    bias[specials.eot] = 0.0
    return bias


@dataclass(slots=True)
class Choice:
    """The next token of each sequence, and the distribution that it comes from. Every field is [B]."""

    token: Tensor  # the likeliest one
    logprob: Tensor  # its log-probability among the allowed ones
    allowed: AllowedTokens
    timestamp_only: Tensor  # nothing but a timestamp may come, bool
    log_normalizer: Tensor  # log of the summed exponentials of the allowed logits


def pick(logits: Tensor, bias: Tensor, history: History, specials: Specials) -> Choice:
    """Return the likeliest allowed token of each sequence.

    logits [B, n_vocab] float32, overwritten; bias [n_vocab] or [B, n_vocab]. If the timestamps together are likelier
    than any one text token, a timestamp comes: the last of the timestamp rules.
    """
    allowed = allowed_tokens(history, specials)
    logits += bias
    timestamp_logits = logits[:, specials.timestamp_begin :]
    ids = torch.arange(specials.timestamp_begin, specials.vocab, device=logits.device)
    forbidden = (ids < allowed.first_timestamp[:, None]) | (ids > allowed.last_timestamp[:, None])
    timestamp_logits.masked_fill_(forbidden, -torch.inf)
    timestamp_mass = timestamp_logits.logsumexp(-1)
    timestamp_logit, timestamp_index = timestamp_logits.max(-1)

    lexical_logit, lexical_id, lexical_mass = _best_lexical(logits, allowed, specials)
    timestamp_only = timestamp_mass > lexical_logit
    token = torch.where(timestamp_only, timestamp_index + specials.timestamp_begin, lexical_id)
    log_normalizer = torch.where(timestamp_only, timestamp_mass, timestamp_mass.logaddexp(lexical_mass))
    logit = torch.where(token >= specials.timestamp_begin, timestamp_logit, lexical_logit)
    return Choice(token, logit - log_normalizer, allowed, timestamp_only, log_normalizer)


def _best_lexical(logits: Tensor, allowed: AllowedTokens, specials: Specials) -> tuple[Tensor, Tensor, Tensor]:
    """Return logit and id of the likeliest of text and end, and the log of both's summed exponentials. [B] each."""
    text_logits = logits[:, : specials.eot]
    text_logit, text_id = text_logits.max(-1)
    never = torch.full_like(text_logit, -torch.inf)
    text_logit = torch.where(allowed.text, text_logit, never)
    eot_logit = torch.where(allowed.eot, logits[:, specials.eot], never)
    token = torch.where(eot_logit > text_logit, specials.eot, text_id)
    mass = torch.where(allowed.text, text_logits.logsumexp(-1), never).logaddexp(eot_logit)
    return torch.maximum(text_logit, eot_logit), token, mass


def log_probabilities(logits: Tensor, choice: Choice, rows: Tensor, specials: Specials) -> Tensor:
    """Return the log-probability of every token in some rows of logits; −inf if it is not allowed. [n, n_vocab]

    logits [B, n_vocab] as `pick` left them; rows [n], their indices.
    """
    masked = logits[rows]
    timestamp_only = choice.timestamp_only[rows]
    masked[:, : specials.eot].masked_fill_((timestamp_only | ~choice.allowed.text[rows])[:, None], -torch.inf)
    masked[:, specials.eot].masked_fill_(timestamp_only | ~choice.allowed.eot[rows], -torch.inf)
    return masked - choice.log_normalizer[rows, None]
