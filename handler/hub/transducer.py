"""Decode by a transducer (RNN-T or TDT): the prediction network follows the text, the joint network reads the frames.

All windows of a batch are decoded together. The joint network looks several frames ahead at once, since its weights
have to be read from memory each time, and the prediction network runs only where there is a new token. Sources: Graves,
Sequence Transduction with Recurrent Neural Networks, 2012; Xu et al., Efficient Sequence Transduction by Jointly
Predicting Tokens and Durations, 2023; Bataev et al., Label-Looping, 2024.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handler.hub.features import Features
from handler.hub.frames import inputs_per_output
from handler.hub.recognizer import IsWanted
from handler.hub.token_text import TextBuilder, TimedToken
from handler.hub.vocabulary import Vocabulary
from handler.schema.window import Window, WindowResult

AUTO = "auto"  # the name of the prompt that has a network find out the language
LOOKAHEAD = 8  # frames that the joint network reads at once


@dataclass(slots=True)
class Prediction:
    """What the prediction network knows of the text of each row."""

    output: Tensor  # [B, C]
    hidden: Tensor  # [layers, B, C]
    cell: Tensor  # [layers, B, C]

    def update(self, other: "Prediction", rows: Tensor) -> None:
        """Take over the state of the rows for which `rows` [B] is true."""
        self.output = torch.where(rows[:, None], other.output, self.output)
        self.hidden = torch.where(rows[None, :, None], other.hidden, self.hidden)
        self.cell = torch.where(rows[None, :, None], other.cell, self.cell)


class TransducerSearch:
    """Finds the likeliest token after token, and the frame of each.

    `durations` are the numbers of frames that a TDT model may advance after a decision; empty for an RNN-T, which
    advances by a frame after a blank. After `max_symbols` tokens in one frame, the frame is left.
    """

    def __init__(self, decoder: Any, joint: Any, blank: int, durations: Sequence[int], max_symbols: int) -> None:
        self._decoder = decoder
        self._joint = joint
        self._blank = blank
        self._durations = torch.tensor(durations) if durations else None
        self._max_symbols = max_symbols

    def run(self, encoded: Tensor, lengths: Tensor) -> list[list[TimedToken]]:
        """Return the tokens of each row of encoded audio [B, T, C], of which the first lengths[b] frames count."""
        num_rows, num_frames = encoded.shape[:2]
        padded = torch.nn.functional.pad(encoded, (0, 0, 0, LOOKAHEAD))
        rows = torch.arange(num_rows, device=encoded.device)
        frame = torch.zeros_like(rows)
        num_symbols = torch.zeros_like(rows)  # that were decoded in the current frame
        coming = torch.arange(LOOKAHEAD, device=rows.device)
        state = self._predict(torch.full_like(rows, self._blank), None)
        steps: list[tuple[Tensor, ...]] = []
        while bool((frame < lengths).any()):
            ahead = frame.clamp(max=num_frames)[:, None] + coming
            ahead = ahead.clamp(max=padded.shape[1] - 1)
            tokens, advances, logprobs = self._decide(padded[rows[:, None], ahead], state.output)
            offset = _first_token(tokens != self._blank, advances)
            has_token = (offset < LOOKAHEAD) & (frame + offset < lengths)
            at = offset.clamp(max=LOOKAHEAD - 1)[:, None]
            token, advance = tokens.gather(1, at)[:, 0], advances.gather(1, at)[:, 0]
            num_symbols = torch.where(offset > 0, 0, num_symbols) + has_token
            is_stuck = has_token & (advance == 0) & (num_symbols >= self._max_symbols)
            start = frame + offset
            steps.append((has_token, token, start, advance, logprobs.gather(1, at)[:, 0]))
            moved = has_token & ((advance > 0) | is_stuck)
            frame = start + torch.where(has_token, advance + is_stuck, 0)
            num_symbols = torch.where(moved, 0, num_symbols)
            state.update(self._predict(token, state), has_token)
        return _collect(steps, num_rows)

    def _decide(self, frames: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the likeliest token for each frame [B, F, C], the frames to advance after it, and its log-probability.

        A blank advances by at least one frame. [B, F] each
        """
        logits = self._joint(encoder_hidden_states=frames, decoder_hidden_states=predicted[:, None])
        num_tokens = logits.shape[-1] - (0 if self._durations is None else len(self._durations))
        token_logits = logits[..., :num_tokens]
        tokens = token_logits.argmax(-1)
        logprobs = token_logits.amax(-1).float() - token_logits.float().logsumexp(-1)
        is_blank = tokens == self._blank
        if self._durations is None:
            return tokens, is_blank.long(), logprobs
        durations = self._durations.to(logits.device)[logits[..., num_tokens:].argmax(-1)]
        return tokens, torch.where(is_blank, durations.clamp(min=1), durations), logprobs

    def _predict(self, tokens: Tensor, state: Prediction | None) -> Prediction:
        """Run the prediction network on one token of each row [B]."""
        embedded = self._decoder.embedding(tokens[:, None])
        before = None if state is None else (state.hidden, state.cell)
        output, (hidden, cell) = self._decoder.lstm(embedded, before)
        return Prediction(self._decoder.decoder_projector(output)[:, 0], hidden, cell)


def _first_token(is_token: Tensor, advances: Tensor) -> Tensor:
    """Return the offset of the first frame with a token, following the advances of the blanks before it. [B, F] → [B]

    If there is none among the frames, return the offset, of at least F, that the blanks lead to.
    """
    num_frames = is_token.shape[1]
    offset = torch.zeros_like(advances[:, 0])
    for _ in range(num_frames):
        at = offset.clamp(max=num_frames - 1)[:, None]
        goes_on = (offset < num_frames) & ~is_token.gather(1, at)[:, 0]
        offset = offset + torch.where(goes_on, advances.gather(1, at)[:, 0], 0)
    return offset


def _collect(steps: Sequence[tuple[Tensor, ...]], num_rows: int) -> list[list[TimedToken]]:
    """Return the tokens of each row. A step has, for each row, whether there is a token, its id, frame and so on."""
    tokens: list[list[TimedToken]] = [[] for _ in range(num_rows)]
    if steps:
        columns = [torch.stack(column).tolist() for column in zip(*steps, strict=True)]
        for step in zip(*columns, strict=True):
            for row, (has_token, token, start, advance, logprob) in enumerate(zip(*step, strict=True)):
                if has_token:
                    tokens[row].append(TimedToken(token, start, start + max(1, advance), logprob))
    return tokens


class TransducerRecognizer:
    """Decodes windows with a transducer.

    `prompt_ids` are the numbers by which a multilingual network is told the language, by code; that of "auto" has the
    network find it out. Empty if the network is told none.
    """

    def __init__(
        self,
        model: Any,
        features: Features,
        vocabulary: Vocabulary,
        language: str | None,
        prompt_ids: Mapping[str, int] | None = None,
    ) -> None:
        config = model.config
        self._model = model
        self._features = features
        self._prompt_ids = prompt_ids or {}
        durations = tuple(getattr(config, "durations", ()))
        self._search = TransducerSearch(
            model.decoder, model.joint, config.blank_token_id, durations, config.max_symbols_per_step
        )
        self._text = TextBuilder(vocabulary, inputs_per_output(model) * features.frame_s, language)

    def recognize(self, windows: Sequence[Window], is_wanted: IsWanted) -> list[WindowResult]:
        """Return the result of each window."""
        inputs = self._features(windows)
        encoded = self._model.get_audio_features(
            **inputs.tensors, **self._prompts(windows, inputs.lengths.device), output_attention_mask=True
        )
        lengths = encoded.attention_mask.sum(-1)
        tokens = self._search.run(encoded.pooler_output, lengths)
        return self._text.results(windows, tokens)

    def _prompts(self, windows: Sequence[Window], device: torch.device) -> dict[str, Tensor]:
        """Return the input that tells a multilingual network the language of each window."""
        if not self._prompt_ids:
            return {}
        ids = [self._prompt_ids[window.params.language or AUTO] for window in windows]
        return {"prompt_ids": torch.tensor(ids, device=device)}
