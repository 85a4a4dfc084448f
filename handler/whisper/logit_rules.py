"""Decoding rules for the whole batch at once, and the choice of the next token. Knows no window, no cache, no request.

Each rule narrows the set of tokens that each of the B sequences may continue with. `pick` then chooses the likeliest
of the remaining tokens. Source: openai/whisper, whisper/decoding.py (SuppressTokens, SuppressBlank,
ApplyTimestampRules).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.tokenizer import Specials

FIRST_TIMESTAMP_S = 1.0  # the first segment of a window begins at this time at the latest


@dataclass(slots=True)
class History:
    """What the rules need to know of the tokens decoded so far in each sequence. Every field is [B], int64."""

    count: Tensor  # number of decoded tokens
    last: Tensor  # the last token, which is the prompt's last one as long as `count` is 0
    previous: Tensor  # the token before the last one
    last_timestamp: Tensor  # the last timestamp token, or the id below the first timestamp token if there is none
    text_required_until: Tensor  # a segment must have text if its start token is below this id, since speech follows

    def fields(self) -> tuple[Tensor, ...]:
        """Return the tensors in the order in which the fields are declared."""
        return self.count, self.last, self.previous, self.last_timestamp, self.text_required_until

    def rows(self, slots: slice) -> "History":
        """Return a view of the history of `slots`."""
        return History(*(field[slots] for field in self.fields()))

    def append(self, token: Tensor, specials: Specials, is_decoded: Tensor | int = 1) -> None:
        """Append one new token to each sequence, in place. Those that are not decoded do not count. Both [B]."""
        self.count.add_(is_decoded)
        self.previous.copy_(self.last)
        self.last.copy_(token)
        self.last_timestamp.copy_(torch.where(token >= specials.timestamp_begin, token, self.last_timestamp))


@dataclass(slots=True)
class AllowedTokens:
    """What the next token of each sequence may be. Every field is [B]."""

    text: Tensor  # whether text tokens are allowed, bool
    eot: Tensor  # whether the end-of-text token is allowed, bool
    first_timestamp: Tensor  # least allowed timestamp token, int64
    last_timestamp: Tensor  # greatest allowed timestamp token, int64; below `first_timestamp` if none is allowed


def allowed_tokens(history: History, specials: Specials) -> AllowedTokens:
    """Return what the next token of each sequence may be.

    - The first token is a timestamp of at most FIRST_TIMESTAMP_S.
    - Timestamps come in pairs, one that starts a segment and one that ends it. After a timestamp that ends a segment,
      only a timestamp or end of text is allowed. After one that starts a segment, no timestamp is allowed.
    - Every timestamp is greater than the one before, so that no segment has a length of zero. As an exception, one that
      starts a segment may equal the one that ends the previous segment.
    - End of text is not allowed right after the timestamp that starts a segment if too much speech follows, which is so
      if that timestamp is below `History.text_required_until`.
    """
    begin = specials.timestamp_begin
    has_tokens = history.count > 0
    is_timestamp = has_tokens & (history.last >= begin)
    is_start = is_timestamp & ((history.previous >= begin) | (history.count < 2))
    is_no_end = ~(is_timestamp ^ is_start)
    lacks_text = is_start & (history.last < history.text_required_until)
    latest_first = begin + round(FIRST_TIMESTAMP_S / TIMESTAMP_S)
    # Computed instead of chosen between two numbers: a choice would have to fetch them from the host.
    last = (has_tokens * (specials.vocab - 1 - latest_first)).add_(latest_first)
    return AllowedTokens(
        text=has_tokens & is_no_end,
        eot=has_tokens & ~lacks_text,
        first_timestamp=history.last_timestamp + is_no_end,
        last_timestamp=last.masked_fill_(is_start, begin - 1),
    )


def suppression(specials: Specials, ids: Iterable[int], device: torch.device) -> Tensor:
    """Return a bias [n_vocab] for the logits that is −inf for suppressed tokens and 0 for all others.

    The suppressed tokens are `ids` and all special tokens except end of text and timestamps. End of text is never
    suppressed, even if `ids` contains it.
    """
    bias = torch.zeros(specials.vocab, device=device)
    bias[list(ids)] = -torch.inf
    bias[specials.eot + 1 : specials.timestamp_begin] = -torch.inf
    bias[specials.eot] = 0.0
    return bias


@dataclass(slots=True)
class Choice:
    """The next token of each sequence, and what `log_probabilities` needs besides the logits. All tensors are [B]."""

    token: Tensor  # the chosen token: the likeliest allowed one, until sampling or beam search replaces it
    logprob: Tensor  # log-probability of the chosen token among the allowed tokens
    allowed: AllowedTokens
    timestamp_only: Tensor  # whether only timestamps are allowed, since together they are likelier than any text, bool
    log_normalizer: Tensor  # log of the summed exponentials of the allowed logits


def pick(logits: Tensor, bias: Tensor, history: History, specials: Specials) -> Choice:
    """Return the likeliest allowed token of each sequence.

    `logits` [B, n_vocab] float32 are overwritten: `bias` is added, and forbidden timestamps are set to −inf. `bias` is
    [n_vocab] or [B, n_vocab]. If all allowed timestamps together are likelier than every single text token and than end
    of text, the likeliest timestamp is chosen, as in openai/whisper.
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
    """Find the likeliest token of each sequence among the allowed text tokens and end of text.

    Return the logit and the id of the likeliest token, and the log-sum-exp of the logits of all those allowed tokens.
    Each is [B].
    """
    text_logits = logits[:, : specials.eot]
    text_logit, text_id = text_logits.max(-1)
    never = torch.full_like(text_logit, -torch.inf)
    text_logit = torch.where(allowed.text, text_logit, never)
    eot_logit = torch.where(allowed.eot, logits[:, specials.eot], never)
    token = torch.where(eot_logit > text_logit, specials.eot, text_id)
    mass = torch.where(allowed.text, text_logits.logsumexp(-1), never).logaddexp(eot_logit)
    return torch.maximum(text_logit, eot_logit), token, mass


def log_probabilities(logits: Tensor, choice: Choice, rows: Tensor, specials: Specials) -> Tensor:
    """Return the log-probability of every token in selected rows of the logits. [n, n_vocab]

    Tokens that are not allowed get −inf. `logits` [B, n_vocab] must be those that `pick` has overwritten. `choice` must
    be the result of the same call of `pick`. `rows` [n] holds the indices of the selected rows. The logits are not
    changed.
    """
    masked = logits[rows]
    timestamp_only = choice.timestamp_only[rows]
    masked[:, : specials.eot].masked_fill_((timestamp_only | ~choice.allowed.text[rows])[:, None], -torch.inf)
    masked[:, specials.eot].masked_fill_(timestamp_only | ~choice.allowed.eot[rows], -torch.inf)
    return masked - choice.log_normalizer[rows, None]
