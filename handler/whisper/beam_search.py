"""Beam search over groups of tasks: a step on the device, then its candidates on the host. Knows no audio and no batch.

G tasks of one beam size, W sequences of each, V tokens of the vocabulary. Source: openai/whisper, whisper/decoding.py
(BeamSearchDecoder).
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import torch
from torch import Tensor

from handler.whisper.kv_cache import KVCache
from handler.whisper.logit_rules import Choice, History, log_probabilities
from handler.whisper.sequences import ActiveSequence, DecodeTask, Hypothesis, slots_by_task
from handler.whisper.tokenizer import Specials

Group = list[list[int]]  # slots of the sequences of tasks of one beam size. [G, W]


def beam_groups(sequences: Sequence[ActiveSequence]) -> list[Group]:
    """Return the slots of competing sequences, task by task, tasks of one beam size together."""
    groups: dict[int, Group] = {}
    for slots in slots_by_task(sequences):
        if beam_size := sequences[slots[0]].task.beam_size:
            groups.setdefault(beam_size, []).append(slots)
    return list(groups.values())


class BeamSearch:
    """One step of beam search over the slots of a cache, and the summed log-probability of each slot's tokens."""

    def __init__(self, cache: KVCache, history: History, specials: Specials) -> None:
        self.scores = torch.zeros(cache.slots, device=cache.k.device)  # sums of log-probabilities. [slots]
        self._cache = cache
        self._history = history
        self._ids = specials

    def start(self, slots: slice, tasks: Sequence[DecodeTask]) -> None:
        """Reset the scores of the `slots` of new tasks; the first beam alone counts until they differ."""
        scores: list[float] = []
        for task in tasks:
            later_score = -torch.inf if task.beam_size else 0.0
            scores += [0.0, *[later_score] * (task.window.params.num_hypotheses - 1)]
        self.scores[slots] = torch.tensor(scores, device=self.scores.device)

    def step(self, logits: Tensor, choice: Choice, sequences: Sequence[ActiveSequence], group: Group) -> Tensor:
        """Move the slots of a group to the likeliest continuations that do not end, and return all candidates.

        logits [B, n_vocab] as `pick` left them; the tokens of `choice` are replaced. A task has 2 * W candidates, the
        likeliest first: parent (0 … W − 1), token, and log-probability of the whole text. [G, 3, 2 * W]
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
        """Continue each slot from the text, `length` tokens at most, and the history of its parent. [G, W] each."""
        self._cache.reorder(slots.flatten(), parent_slots.flatten(), length)
        for buffer in self._history.fields():
            buffer[slots] = buffer[parent_slots]

    def extend(self, beams: Sequence[ActiveSequence], values: Iterator[float]) -> None:
        """Append a step's tokens to the sequences of one task, whose candidates are the next 3 * 2 * W of `values`.

        Candidates that end join the task's finished hypotheses; the likeliest others go on, as `step` has decided.
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
