"""Records of decoding: a window's task, its active sequences, and their hypotheses. Knows no model and no batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from handler.schema.window import Window
from handler.whisper.repetition import loop_start
from handler.whisper.tokenizer import Specials


@dataclass(slots=True)
class Hypothesis:
    """One text for a window, with the log-probability of each of its tokens."""

    tokens: list[int]  # decoded, end of text included
    logprobs: list[float]

    @property
    def avg_logprob(self) -> float:
        """Return the mean log-probability of a token."""
        return sum(self.logprobs) / len(self.logprobs)

    def append(self, token: int, logprob: float) -> None:
        """Add a token."""
        self.tokens.append(token)
        self.logprobs.append(logprob)

    def rank(self, length_penalty: float | None) -> float:
        """Return the score that hypotheses are ordered by, the greater the better.

        Source: openai/whisper, whisper/decoding.py, MaximumLikelihoodRanker.
        """
        if length_penalty is None:
            return self.avg_logprob
        return sum(self.logprobs) / ((5 + len(self.logprobs)) / 6) ** length_penalty

    def text_tokens(self, ids: Specials) -> list[int]:
        """Return the tokens that stand for text."""
        return [token for token in self.tokens if token < ids.eot]


@dataclass(slots=True, eq=False)
class DecodeTask:
    """A window being decoded."""

    window: Window
    prompt: tuple[int, ...]  # ids before the first decoded one
    language: str | None
    language_probabilities: dict[str, float]  # empty unless the language had to be detected
    onset_strength: Tensor  # for the times of its words. [frames]
    audio_positions: int  # encoder positions that its sequences attend to
    bias: Tensor | None = None  # added to its logits instead of the engine's own. [n_vocab]
    no_speech_prob: float = 0.0
    finished: list[Hypothesis] = field(default_factory=list)

    @property
    def beam_size(self) -> int:
        """Return how many sequences compete at every step; 0 without beam search."""
        params = self.window.params
        return params.num_hypotheses if params.temperature == 0 and params.num_hypotheses > 1 else 0

    @property
    def max_candidates(self) -> int:
        """Return how many finished hypotheses end a beam search."""
        return max(1, round(self.beam_size * self.window.params.patience))

    def best(self, ids: Specials) -> Hypothesis:
        """Return the likeliest finished hypothesis; any that ends in a loop ranks last, however likely loops are."""
        penalty = self.window.params.length_penalty

        def rank_key(hypothesis: Hypothesis) -> tuple[bool, float]:
            return loop_start(hypothesis.text_tokens(ids)) is None, hypothesis.rank(penalty)

        return max(self.finished, key=rank_key)


@dataclass(slots=True)
class ActiveSequence:
    """The hypothesis that grows in one slot."""

    task: DecodeTask
    generator: torch.Generator | None = None  # None unless it samples
    hypothesis: Hypothesis = field(default_factory=lambda: Hypothesis([], []))

    @property
    def length(self) -> int:
        """Return the number of tokens in the decoder's context."""
        return len(self.task.prompt) + len(self.hypothesis.tokens)


def slots_by_task(sequences: Sequence[ActiveSequence]) -> list[list[int]]:
    """Return the slots of each task's sequences, given the sequences in the order of their slots."""
    slots: dict[int, list[int]] = {}
    for slot, sequence in enumerate(sequences):
        slots.setdefault(id(sequence.task), []).append(slot)
    return list(slots.values())
