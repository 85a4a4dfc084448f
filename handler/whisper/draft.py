"""Find out how much of drafted texts the model would have decoded itself. Knows no batch.

A draft is what an earlier pass over the same audio, or over its beginning, has decoded. The decoder reads all of it at
once, where steps would read the weights once for each token, and every token is checked by the rules of a step. So a
draft saves steps; the text is that without it, except where two tokens are almost equally likely, which any other shape
of the batch decides anew. Source: Leviathan et al., 2023, arxiv.org/abs/2211.17192, for greedy decoding.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from handler.whisper.host_copy import host_tensor, to_device
from handler.whisper.logit_rules import History, pick
from handler.whisper.model import Decoder
from handler.whisper.sequences import DecodeTask, Hypothesis
from handler.whisper.tokenizer import Specials

MAX_PLACES = 256  # whose logits are held at once


class DraftChecker:
    """Checks drafts by the logits of a decoder, to which a bias [n_vocab] is added by default."""

    def __init__(self, decoder: Decoder, specials: Specials, bias: Tensor) -> None:
        self._decoder = decoder
        self._specials = specials
        self._bias = bias

    def check(self, tasks: Sequence[DecodeTask], hidden: Tensor) -> list[Hypothesis]:
        """Return for each task the tokens that steps would have decoded at first, as far as its draft tells them.

        `hidden` [B, T, C] are the hidden states of the prompt of each task with its draft behind it. The end of text is
        not among the tokens: a step decodes it, because a sequence that has it is over and cannot go on.
        """
        rows: list[list[int]] = []  # for each place, where a token is chosen: task, text position, and history
        for number, task in enumerate(tasks):
            for position, values in enumerate(_histories(task, self._specials), len(task.prompt) - 1):
                rows.append([number, position, *values])
        numbers, positions, *fields = to_device(host_tensor(np.array(rows).T, hidden.device), hidden.device)
        states, history = hidden[numbers, positions], History(*fields)
        chosen = []
        for start in range(0, len(rows), MAX_PLACES):
            part = slice(start, min(start + MAX_PLACES, len(rows)))
            biases = [tasks[row[0]].bias for row in rows[part]]
            chosen.append(self._choose(states[part], biases, history.rows(part)))
        tokens, logprobs = torch.cat(chosen, 1).tolist()  # one copy to the host
        hypotheses, start = [], 0
        for task in tasks:
            end = start + len(task.draft) + 1
            own = [int(token) for token in tokens[start:end]]
            count = num_accepted(task.draft, own, self._specials.eot)
            hypotheses.append(Hypothesis(own[:count], logprobs[start : start + count]))
            start = end
        return hypotheses

    def _choose(self, states: Tensor, biases: Sequence[Tensor | None], history: History) -> Tensor:
        """Return the token chosen at each place, and its log-probability, for states [n, C]. float32 [2, n]"""
        bias = self._bias
        if any(own is not None for own in biases):
            bias = torch.stack([bias if own is None else own for own in biases])
        choice = pick(self._decoder.logits(states), bias, history, self._specials)
        return torch.stack((choice.token.float(), choice.logprob))  # float32 holds token ids exactly


def _histories(task: DecodeTask, specials: Specials) -> list[tuple[int, ...]]:
    """Return the fields of `History` after the prompt of a task and after each token of its draft."""
    none = specials.timestamp_begin - 1
    tokens = [task.prompt[-1], *task.draft]
    previous = [0, *tokens[:-1]]
    timestamps = accumulate((max(token, none) for token in task.draft), max, initial=none)
    required = [task.text_required_until] * len(tokens)
    return list(zip(range(len(tokens)), tokens, previous, timestamps, required, strict=True))


def num_accepted(draft: Sequence[int], chosen: Sequence[int], eot: int) -> int:
    """Return how many of the chosen tokens are what steps would have decoded: all up to the first unlike the draft.

    There is a chosen token for each of the draft, and one behind it. An end of text is not counted.
    """
    assert eot not in draft
    same = next((place for place, token in enumerate(draft) if token != chosen[place]), len(draft))
    return same if chosen[same] == eot else same + 1
