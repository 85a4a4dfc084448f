"""Records of decoding: tasks, their active sequences, and the hypotheses. Knows no model and no batch."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from handler.schema.window import Window
from handler.tokens.repetition import loop_start
from handler.whisper.tokenizer import Specials


@dataclass(slots=True)
class Hypothesis:
    """One possible text of a window, as tokens with their log-probabilities."""

    tokens: list[int]  # all decoded tokens: text, timestamps, and end of text once it is decoded
    logprobs: list[float]

    @property
    def avg_logprob(self) -> float:
        """Return the mean log-probability of the tokens. There must be at least one token."""
        return sum(self.logprobs) / len(self.logprobs)

    def append(self, token: int, logprob: float) -> None:
        """Append a token and its log-probability."""
        self.tokens.append(token)
        self.logprobs.append(logprob)

    def rank(self, length_penalty: float | None) -> float:
        """Return the score by which hypotheses are compared. A greater score is better.

        The score is the sum of the log-probabilities, divided by ((5 + tokens) / 6) ** length_penalty. If
        `length_penalty` is None, the score is the mean log-probability.

        Source: openai/whisper, whisper/decoding.py, MaximumLikelihoodRanker.
        """
        if length_penalty is None:
            return self.avg_logprob
        return sum(self.logprobs) / ((5 + len(self.logprobs)) / 6) ** length_penalty

    def text_tokens(self, ids: Specials) -> list[int]:
        """Return the tokens without special tokens and timestamps."""
        return [token for token in self.tokens if token < ids.eot]


@dataclass(slots=True, eq=False)
class DecodeTask:
    """A window being decoded, by one sequence or several."""

    window: Window
    prompt: tuple[int, ...]  # token ids that precede the first decoded token
    language: str | None  # None until it is detected
    language_probabilities: dict[str, float]  # empty unless the language had to be detected
    onset_strength: Tensor  # of each 10 ms frame, used to time the words. [frames]
    audio_positions: int  # encoder positions that the sequences attend to
    text_required_until: int  # see History
    draft: tuple[int, ...] = ()  # tokens that the text is likely to begin with
    bias: Tensor | None = None  # added to the logits instead of the engine's default bias. [n_vocab]
    is_prompt_read_by_steps: bool = False  # instead of a prefill
    no_speech_prob: float = 0.0
    finished: list[Hypothesis] = field(default_factory=list)

    @property
    def beam_size(self) -> int:
        """Return the number of beams, or 0 if the task does not use beam search."""
        params = self.window.params
        return params.num_hypotheses if params.temperature == 0 and params.num_hypotheses > 1 else 0

    @property
    def max_candidates(self) -> int:
        """Return the number of finished hypotheses at which beam search stops."""
        return max(1, round(self.beam_size * self.window.params.patience))

    def best(self, ids: Specials) -> Hypothesis:
        """Return the finished hypothesis with the highest rank.

        A hypothesis that ends in a loop ranks below every hypothesis without one, because Whisper finds loops likely.
        """
        penalty = self.window.params.length_penalty

        def rank_key(hypothesis: Hypothesis) -> tuple[bool, float]:
            return loop_start(hypothesis.text_tokens(ids)) is None, hypothesis.rank(penalty)

        return max(self.finished, key=rank_key)


@dataclass(slots=True)
class ActiveSequence:
    """A hypothesis that grows in one batch slot."""

    task: DecodeTask
    chance: random.Random | None = None  # None unless tokens are sampled
    is_at_start: bool = False  # whether the next step reads the start of the transcript
    unread: int = 0  # tokens of the prompt that steps must read after the next one
    hypothesis: Hypothesis = field(default_factory=lambda: Hypothesis([], []))

    @property
    def length(self) -> int:
        """Return the number of tokens in the decoder's context, prompt included."""
        return len(self.task.prompt) + len(self.hypothesis.tokens)


def slots_by_task(sequences: Sequence[ActiveSequence]) -> list[list[int]]:
    """Return one list of slots for each task. sequences[i] must be the sequence in slot i."""
    slots: dict[int, list[int]] = {}
    for slot, sequence in enumerate(sequences):
        slots.setdefault(id(sequence.task), []).append(slot)
    return list(slots.values())
