"""Turn prepared windows into decoding tasks: prompt, language, suppressed tokens. Knows no batch and no network."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from handler.schema.window import SAMPLE_RATE, Window
from handler.whisper.decoding_state import DETECTED
from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.logit_rules import suppression
from handler.whisper.preparation import PreparedWindow
from handler.whisper.sequences import DecodeTask
from handler.whisper.tokenizer import Specials, Tokenizer

MAX_SPEECH_WITHOUT_TEXT_S = 1.0  # speech at a window's end that may lack text after a segment's start


def can_steps_read_prompt(window: Window) -> bool:
    """Return whether the prompt of a window is short, and its one sequence can read it token by token.

    A draft is worth having because it is not read token by token.
    """
    params = window.params
    has_text = params.prompt.strip() or params.hotwords.strip()
    return params.num_hypotheses == 1 and params.temperature == 0 and not has_text and not draft_of(window)


def _text_required_until(window: Window, ids: Specials) -> int:
    """Return the timestamp token after which only MAX_SPEECH_WITHOUT_TEXT_S of speech remain in the window.

    Return 0, which is below every timestamp token, if the whole window has no more speech than this.
    """
    remaining = round(MAX_SPEECH_WITHOUT_TEXT_S * SAMPLE_RATE)
    for start, end in reversed(window.speech):
        if end - start > remaining:
            offset_s = (end - remaining - window.start) / SAMPLE_RATE
            return ids.timestamp_begin + max(0, int(offset_s / TIMESTAMP_S))
        remaining -= end - start
    return 0


def draft_of(window: Window) -> tuple[int, ...]:
    """Return the draft of a window, or () if its text is not the likeliest token by token."""
    params = window.params
    is_greedy = params.num_hypotheses == 1 and params.temperature == 0 and not params.detect_only
    return params.draft if is_greedy else ()


class TaskBuilder:
    """Builds the tasks of one model. `suppress` are the tokens that the default bias of the logits suppresses."""

    def __init__(self, tokenizer: Tokenizer, suppress: Collection[int], context: int, device: torch.device) -> None:
        self._tokenizer = tokenizer
        self._suppress = tuple(suppress)
        self._context = context
        self._max_prompt_text = context // 2 - 1  # tokens; half the context is for decoded ones
        self._device = device

    def build(
        self, prepared: PreparedWindow, language_probabilities: Mapping[str, float], by_steps: bool = False
    ) -> DecodeTask:
        """Return the task of a window. With `by_steps`, the first steps read the prompt, and detect the language.

        The likeliest language is the task's, unless the window's parameters name one.
        """
        window, encoded = prepared.window, prepared.encoded
        params = window.params
        language = params.language or max(language_probabilities, key=language_probabilities.__getitem__, default=None)
        if language is None and not (by_steps and self._tokenizer.specials.multilingual):
            language = "en"
        prompt = self._tokenizer.prompt(
            language, params.task, params.prompt, params.hotwords, max_context=self._max_prompt_text
        )
        if language is None:
            prompt[prompt.index(self._tokenizer.specials.sot) + 1] = DETECTED
        return DecodeTask(
            window,
            tuple(prompt),
            language,
            dict(language_probabilities),
            encoded.onset_strength,
            len(encoded.audio),
            _text_required_until(window, self._tokenizer.specials),
            draft_of(window)[: self._context - len(prompt) - 2],  # room for a token behind it, and for the end
            self._suppression_bias(params.suppress),
            by_steps,
        )

    def _suppression_bias(self, suppress: tuple[int, ...] | None) -> Tensor | None:
        """Return the logit bias [n_vocab] that suppresses the tokens of a window's `suppress` parameter.

        −1 in `suppress` stands for the engine's own list. Return None, which stands for the default bias, if `suppress`
        is None or (−1,).
        """
        if suppress is None or suppress == (-1,):
            return None
        ids = {token for token in suppress if token >= 0}
        if -1 in suppress:
            ids |= set(self._suppress)
        return suppression(self._tokenizer.specials, ids, self._device)
