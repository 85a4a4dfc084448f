"""Draw tokens at a temperature, reproducibly. Knows no batch."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from handler.whisper.logit_rules import Choice, log_probabilities
from handler.whisper.sequences import ActiveSequence, DecodeTask
from handler.whisper.tokenizer import Specials


def source_of_chance(task: DecodeTask, index: int) -> random.Random | None:
    """Return the source of chance of sequence number `index` of a task, or None at temperature 0.

    The seed depends on the window's start, the temperature and `index`, but not on the other sequences in the batch.
    """
    params = task.window.params
    if params.temperature == 0:
        return None
    return random.Random(task.window.start + round(1000 * params.temperature) * 1_000_003 + index * 7_919)


def sample(logits: Tensor, choice: Choice, sequences: Sequence[ActiveSequence], specials: Specials) -> None:
    """Draw the next token of each sequence that has a source of chance, by inverting the distribution function.

    sequences[i] belongs to row i of the logits, which `pick` has overwritten. The token and its log-probability are
    replaced in `choice`. The tokens are drawn after the log-probabilities have been divided by the sequence's
    temperature, but `choice` gets the undivided ones.
    """
    drawn = [
        (slot, sequence.task.window.params.temperature, sequence.chance.random())
        for slot, sequence in enumerate(sequences)
        if sequence.chance is not None
    ]
    if not drawn:
        return
    index = torch.tensor([slot for slot, _, _ in drawn], device=logits.device)
    numbers = torch.tensor([numbers for _, *numbers in drawn], device=logits.device, dtype=torch.float64)
    temperature, share = numbers[:, :1], numbers[:, 1:]  # [n, 1] each
    logprobs = log_probabilities(logits, choice, index, specials)  # [n, n_vocab]
    sums = (logprobs / temperature.float()).softmax(-1).cumsum(-1, dtype=torch.float64)
    token = torch.searchsorted(sums, share * sums[:, -1:], right=True)
    token.clamp_(max=logprobs.shape[1] - 1)  # numbers that are not finite have no place in the sums
    choice.token[index] = token[:, 0]
    choice.logprob[index] = logprobs.gather(1, token)[:, 0]
