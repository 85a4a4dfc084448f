"""Decode by `generate` of `transformers`: encoder-decoder networks and language models that hear.

Each window has a budget of tokens by its seconds, and ends when its text begins to repeat itself or when nobody wants
it any more. Rows that have ended are padded until all of the batch have ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import LongTensor, Tensor

from handler.hub.recognizer import IsWanted
from handler.hub.token_text import speech_bounds
from handler.schema.transcript import Evidence, Segment
from handler.schema.window import Window, WindowResult
from handler.tokens.repetition import compression_ratio, loop_start

BASE_TOKENS = 4  # of the budget of a window, whatever its length
LOOP_CHECK_STEPS = 8  # steps between two searches for loops


class Request(Protocol):
    """How a family is told what to do with windows, and how its text is read."""

    @property
    def takes_prompt(self) -> bool:
        """Whether the family reads a text before the audio."""

    @property
    def takes_hotwords(self) -> bool:
        """Whether the family reads words that may occur, as such or as part of a prompt."""

    def knows(self, language: str) -> bool:
        """Return whether the family can be told the language, which is a code."""

    def inputs(self, windows: Sequence[Window]) -> dict[str, Any]:
        """Return the arguments of `generate` for windows."""

    def read(self, text: str) -> tuple[str, str | None]:
        """Return the transcript in a decoded text, and the code of the language that the text tells, or None."""


class _Recorder:
    """Keeps the log-probability of the likeliest token of each step."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []  # [B] each

    def __call__(self, input_ids: LongTensor, scores: Tensor) -> Tensor:
        scores_32 = scores.float()
        self.steps.append(scores_32.amax(-1) - scores_32.logsumexp(-1))
        return scores


@dataclass
class _Ending:
    """Ends a row whose budget is spent, whose text loops, or whose window nobody wants any more."""

    windows: Sequence[Window]
    budgets: Tensor  # [B]
    recorder: _Recorder
    is_wanted: IsWanted
    filler: int | None = None  # a token that means nothing
    looping: set[int] = field(default_factory=set)  # rows

    def __call__(self, input_ids: LongTensor, scores: Tensor, **kwargs: Any) -> Tensor:
        count = len(self.recorder.steps)
        if count % LOOP_CHECK_STEPS == 0:
            for row, tokens in enumerate(input_ids[:, -count:].tolist()):
                if loop_start([token for token in tokens if token != self.filler]) is not None:
                    self.looping.add(row)
        ended = [row in self.looping or not self.is_wanted(window) for row, window in enumerate(self.windows)]
        return (self.budgets <= count) | torch.tensor(ended, device=input_ids.device)


class GenerateRecognizer:
    """Decodes windows by `generate`. `tokens_per_s` is the budget of tokens for a second of audio.

    A network that `follows_frames` writes a token a frame until the audio ends, most of which are padding.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        request: Request,
        tokens_per_s: float,
        language: str | None,
        follows_frames: bool = False,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._request = request
        self._tokens_per_s = tokens_per_s
        self._language = language
        config = model.generation_config
        ends = config.eos_token_id
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])
        self._pad = config.pad_token_id if config.pad_token_id is not None else next(iter(self._ends))
        self._filler = self._pad if follows_frames else None
        config.max_length = None  # beside max_new_tokens, which is the limit here, it would only cause a warning

    def recognize(self, windows: Sequence[Window], is_wanted: IsWanted) -> list[WindowResult]:
        """Return the result of each window."""
        budgets = [BASE_TOKENS + round(self._tokens_per_s * window.seconds) for window in windows]
        inputs = self._request.inputs(windows)
        recorder = _Recorder()
        device = self._model.device
        ending = _Ending(windows, torch.tensor(budgets, device=device), recorder, is_wanted, self._filler)
        sequences = self._model.generate(
            **inputs,
            max_new_tokens=max(budgets),
            do_sample=False,
            num_beams=1,
            pad_token_id=self._pad,
            logits_processor=[recorder],
            stopping_criteria=[ending],
        )
        logprobs = torch.stack(recorder.steps, 1).tolist()
        tokens = sequences[:, -len(recorder.steps) :].tolist()
        rows = zip(windows, tokens, logprobs, budgets, strict=True)
        return [self._result(window, *row) for window, *row in rows]

    def _result(self, window: Window, tokens: list[int], logprobs: list[float], budget: int) -> WindowResult:
        """Return the result of a window whose row has these tokens, perhaps with padding after them.

        The padding may be the token that ends a text, so one behind the budget shows nothing.
        """
        ends = (index for index, token in enumerate(tokens[:budget]) if token in self._ends)
        end = next(ends, None)
        count = min(budget, len(tokens)) if end is None else end
        written = [token for token in tokens[:count] if token != self._filler]
        loop = loop_start(written)
        kept = written if loop is None else written[:loop]
        text, told = self._request.read(self._tokenizer.decode(kept, skip_special_tokens=True))
        decided = logprobs[: count if end is None else count + 1]
        evidence = Evidence(
            avg_logprob=sum(decided) / max(1, len(decided)),
            no_speech_prob=0.0,
            compression_ratio=compression_ratio(text),
            temperature=0.0,
            tokens=len(decided),
            looped=loop is not None,
            exhausted=end is None and loop is None and self._filler is None,
        )
        language = told or window.params.language or self._language
        text = text.strip()
        start, end_s = speech_bounds(window)
        segments = (Segment(start, end_s, f" {text}", tuple(kept), evidence, (), language),) if text else ()
        return WindowResult(segments, evidence, language)
