"""The collapse of CTC equals one that goes frame by frame, and padding behind a row counts for nothing."""

import random
from itertools import groupby

import pytest
import torch

from handler.hub.ctc import collapse
from handler.hub.token_text import TimedToken

BLANK, TOKENS = 3, 6


def slow_collapse(logits: torch.Tensor, length: int) -> list[TimedToken]:
    """Return the tokens of one row [T, V], run by run."""
    logprobs = logits.log_softmax(-1)
    best = [(int(logprobs[frame].argmax()), float(logprobs[frame].max())) for frame in range(length)]
    tokens, frame = [], 0
    for token, run in groupby(best, key=lambda pair: pair[0]):
        values = [logprob for _, logprob in run]
        if token != BLANK:
            tokens.append(TimedToken(token, frame, frame + len(values), sum(values) / len(values)))
        frame += len(values)
    return tokens


@pytest.mark.parametrize("seed", range(20))
def test_all_rows_at_once_equal_each_row_frame_by_frame(seed: int) -> None:
    chance = random.Random(seed)
    lengths = [chance.randint(0, 40) for _ in range(5)]
    generator = torch.Generator().manual_seed(seed)
    # Coarse values make runs of equal tokens.
    logits = torch.randn(5, 10, TOKENS, generator=generator).repeat_interleave(4, dim=1)
    rows = collapse(logits, torch.tensor(lengths), BLANK)
    for row, tokens in enumerate(rows):
        expected = slow_collapse(logits[row], lengths[row])
        assert [(token.id, token.start, token.end) for token in tokens] == [
            (token.id, token.start, token.end) for token in expected
        ]
        assert [token.logprob for token in tokens] == pytest.approx([token.logprob for token in expected], abs=1e-5)


def test_blanks_alone_are_no_text() -> None:
    logits = torch.zeros(2, 7, TOKENS)
    logits[..., BLANK] = 9.0
    assert collapse(logits, torch.tensor([7, 3]), BLANK) == [[], []]


def test_a_blank_parts_two_equal_tokens() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 1, BLANK, 1]]), TOKENS).float() * 9
    assert [(token.id, token.start, token.end) for token in collapse(logits, torch.tensor([4]), BLANK)[0]] == [
        (1, 0, 2),
        (1, 3, 4),
    ]
