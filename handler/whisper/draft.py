"""Find out how much of a drafted text the model would have decoded itself. Knows no batch.

A draft is what an earlier pass over the same audio, or over its beginning, has decoded. The decoder reads all of it at
once, where steps would read the weights once for each token, and every token is checked by the rules of a step. So a
draft saves steps and changes no text. Source: Leviathan et al., 2023, arxiv.org/abs/2211.17192, for greedy decoding.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from handler.whisper.logit_rules import History, pick
from handler.whisper.sequences import DecodeTask
from handler.whisper.tokenizer import Specials


def check_draft(task: DecodeTask, logits: Tensor, bias: Tensor, specials: Specials) -> tuple[Tensor, Tensor]:
    """Return the tokens that the model chooses after the prompt and after each token of a draft, and log-probabilities.

    Both results are [n + 1] for a draft of n tokens. `logits` [n + 1, n_vocab] are overwritten.
    """
    draft = task.draft
    tokens = [task.prompt[-1], *draft]
    timestamps = [token if token >= specials.timestamp_begin else specials.timestamp_begin - 1 for token in draft]
    rows = [
        list(range(len(tokens))),
        tokens,
        [0, *tokens[:-1]],
        list(accumulate(timestamps, max, initial=specials.timestamp_begin - 1)),
        [task.text_required_until] * len(tokens),
    ]
    choice = pick(logits, bias, History(*torch.tensor(rows, device=logits.device)), specials)
    return choice.token, choice.logprob


def accepted(draft: Sequence[int], chosen: Sequence[int], eot: int) -> int:
    """Return how many of the chosen tokens are what steps would have decoded: all up to the first unlike the draft.

    The end of text is not among them, since a sequence that has it is over.
    """
    same = next((place for place, token in enumerate(draft) if token != chosen[place]), len(draft))
    return same if chosen[same] == eot else same + 1
