"""Beam search for several tasks at once. Knows no audio and no batch.

`BeamSearch.step` ranks the candidates on the device; then `BeamSearch.extend` appends them to the sequences on the
host. Shapes: G tasks of one beam size, W beams per task, V tokens in the vocabulary. Source: openai/whisper,
whisper/decoding.py (BeamSearchDecoder).
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import torch
from torch import Tensor

from handler.whisper.decoding_state import DecodingState
from handler.whisper.kv_cache import KVCache
from handler.whisper.logit_rules import Choice, log_probabilities
from handler.whisper.sequences import ActiveSequence, DecodeTask, Hypothesis, slots_by_task
from handler.whisper.tokenizer import Specials

Group = list[list[int]]  # the slots of each task, for tasks of one beam size. [G, W]


def beam_groups(sequences: Sequence[ActiveSequence]) -> list[Group]:
    """Return one group of tasks for each beam size. Tasks without beam search are left out."""
    groups: dict[int, Group] = {}
    for slots in slots_by_task(sequences):
        if beam_size := sequences[slots[0]].task.beam_size:
            groups.setdefault(beam_size, []).append(slots)
    return list(groups.values())


class BeamSearch:
    """Beam search in the slots of a KV cache. Holds the sum of the log-probabilities of each slot's tokens."""

    def __init__(self, cache: KVCache, state: DecodingState, specials: Specials) -> None:
        self.scores = torch.zeros(cache.slots, device=cache.k.device)  # summed log-probabilities of the tokens. [slots]
        self._cache = cache
        self._state = state
        self._ids = specials

    def start(self, slots: slice, tasks: Sequence[DecodeTask]) -> None:
        """Reset the scores of `slots`, which hold the sequences of new tasks.

        All beams of a task begin with the same text. All beams but the first get a score of −inf, so that the
        first step does not choose the same continuation several times.
        """
        self.scores[slots] = 0.0
        if not any(task.beam_size for task in tasks):
            return
        scores: list[float] = []
        for task in tasks:
            later_score = -torch.inf if task.beam_size else 0.0
            scores += [0.0, *[later_score] * (task.window.params.num_hypotheses - 1)]
        self.scores[slots] = torch.tensor(scores, device=self.scores.device)

    def step(self, logits: Tensor, choice: Choice, sequences: Sequence[ActiveSequence], group: Group) -> Tensor:
        """Continue each task of a group with the W likeliest candidates that do not end, and return 2 * W candidates.

        A candidate is a hypothesis of the task extended by one token. `logits` [B, n_vocab] must be those that `pick`
        has overwritten. In `choice`, the tokens of the group's slots are replaced. The result [G, 3, 2 * W] holds the
        2 * W likeliest candidates of each task, the likeliest first. The three rows of a task are the parent beam
        (0 … W − 1), the new token, and the log-probability of the whole candidate.
        """
        width = len(group[0])
        slots = torch.tensor(group, device=logits.device)  # [G, W]
        logprobs = log_probabilities(logits, choice, slots.flatten(), self._ids).view(len(group), width, -1)
        totals = self.scores[slots][:, :, None] + logprobs  # [G, W, V]
        scores, candidates = totals.flatten(1).topk(2 * width)  # [G, 2 * W]
        parent, token = candidates // totals.shape[-1], candidates % totals.shape[-1]
        open_first = (token == self._ids.eot).int().sort(dim=1, stable=True).indices
        survivors = open_first[:, :width]  # [G, W]
        parent_slots = slots.gather(1, parent.gather(1, survivors))  # [G, W]
        longest = max(sequences[slot].length for slot in chain.from_iterable(group))
        self._reorder(slots, parent_slots, longest)
        choice.token[slots] = token.gather(1, survivors)
        self.scores[slots] = scores.gather(1, survivors)
        return torch.stack((parent.float(), token.float(), scores), 1)

    def _reorder(self, slots: Tensor, parent_slots: Tensor, length: int) -> None:
        """Copy the state and first `length` text positions of parent_slots[g, w] to slots[g, w], for each g and w."""
        self._cache.reorder(slots.flatten(), parent_slots.flatten(), length)
        self._state.reorder(slots.flatten(), parent_slots.flatten())

    def extend(self, beams: Sequence[ActiveSequence], values: Iterator[float]) -> None:
        """Replace the hypotheses of one task's beams by the continuations that `step` has chosen.

        The next 3 * 2 * W numbers of `values` must be the task's part of the flattened result of `step`, and are
        consumed. The W likeliest candidates that do not end are the continuations. Candidates that end and are likelier
        than the last continuation become finished hypotheses of the task.
        """
        parents, tokens, scores = (list(islice(values, 2 * len(beams))) for _ in range(3))
        sources = [beam.hypothesis for beam in beams]
        source_scores = [sum(source.logprobs) for source in sources]
        successors = iter(beams)
        remaining = len(beams)
        for parent, token, score in zip(map(int, parents), map(int, tokens), scores, strict=True):
            source = sources[parent]
            hypothesis = Hypothesis([*source.tokens, token], [*source.logprobs, score - source_scores[parent]])
            if token == self._ids.eot:
                beams[0].task.finished.append(hypothesis)
                continue
            next(successors).hypothesis = hypothesis
            remaining -= 1
            if not remaining:
                return
