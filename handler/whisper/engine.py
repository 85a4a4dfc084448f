"""Whisper over slots: windows are admitted into free rows, every step advances all rows by one token, finished rows leave.

Satisfies longform.Engine. Knows no request, no file and no schedule. Active rows are always the first ones of every
buffer, so a step works on plain slices; when a row leaves, the last one takes its place.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from handler import logs
from handler.device import choose_attention, choose_device, choose_dtype, device_name
from handler.errors import OutOfMemory
from handler.longform import Window, WindowResult
from handler.schema import SAMPLE_RATE, Evidence, Segment
from handler.settings import Settings
from handler.whisper import model as network
from handler.whisper.model import Cache, LogMel, Whisper
from handler.whisper.rules import History, compression_ratio, is_not_speech, loop_start, pick, suppression
from handler.whisper.tokenizer import Specials, Tokenizer
from handler.whisper.weights import load, open_checkpoint

assert SAMPLE_RATE == network.SAMPLE_RATE


@dataclass(slots=True)
class _Row:
    """One window being decoded."""

    window: Window
    prompt: int  # tokens before the first decoded one
    no_speech_prob: float
    language: str | None
    language_probability: float | None
    tokens: list[int] = field(default_factory=list)  # decoded, end of text included
    logprob: float = 0.0  # sum over the tokens

    @property
    def length(self) -> int:
        return self.prompt + len(self.tokens)


class WhisperEngine:
    """One Whisper checkpoint on one device."""

    def __init__(
        self, model_id: str, model: Whisper, tokenizer: Tokenizer, suppress: Collection[int], *,
        device_name: str, attention: str, slots: int, max_new_tokens: int,
    ) -> None:  # fmt: skip
        weight = model.decoder.tokens.weight
        self.model_id = model_id
        self.device_name = device_name
        self.longest_window_s = model.dims.window_samples / SAMPLE_RATE
        self.languages = tokenizer.specials.languages if tokenizer.specials.multilingual else ("en",)
        self.detects_language = tokenizer.specials.multilingual
        self.dtype = weight.dtype
        self._device = weight.device
        self._model = model
        self._tokenizer = tokenizer
        self._attention = attention
        self._slots = slots
        self._max_new_tokens = max_new_tokens
        self._mel = LogMel(model.dims.n_mels, self._device)
        self._cache = Cache(model.dims, slots, self._device, self.dtype)
        self._bias = suppression(tokenizer.specials, suppress, self._device)
        self._history = History.empty(slots, tokenizer.specials, self._device)
        self._prompt = torch.zeros(slots, dtype=torch.int64, device=self._device)
        self._rows: list[_Row] = []

    def free(self) -> int:
        """Rows that could be admitted now."""
        return self._slots - len(self._rows)

    def admit(self, windows: Sequence[Window]) -> None:
        """Encode windows into the next free slots and decode the first token of each. At most `free()` windows."""
        with _on_device():
            slots = slice(len(self._rows), len(self._rows) + len(windows))
            audio = self._encode(windows)
            self._model.decoder.attach(audio, self._cache, slots)
            spoken = self._languages(windows, slots)
            self._prefill(windows, spoken, slots)

    def advance(self) -> list[tuple[Window, WindowResult]]:
        """One token for every row, then the windows that are finished."""
        with _on_device():
            done = self._leave()
            if self._rows:
                self._step()
                done += self._leave()
            return done

    def drop(self, windows: Collection[Window]) -> None:
        """Free the rows of windows that nobody waits for."""
        gone = {id(window) for window in windows}
        with _on_device():
            self._remove([index for index, row in enumerate(self._rows) if id(row.window) in gone])

    def _encode(self, windows: Sequence[Window]) -> Tensor:
        """The audio positions of windows, padded with silence to the length the network was trained on. [B, S, C]"""
        batch = np.zeros((len(windows), self._model.dims.window_samples), np.float32)
        for row, window in zip(batch, windows, strict=True):
            row[: len(window.samples)] = window.samples
        mel = self._mel(torch.from_numpy(batch).to(self._device))
        return self._model.encoder(mel.to(self.dtype), self._attention)  # type: ignore[no-any-return]

    def _languages(self, windows: Sequence[Window], slots: slice) -> list[tuple[str | None, float | None]]:
        """Language of each window, and its probability where it had to be detected."""
        if not self.detects_language:
            return [("en", None)] * len(windows)
        if all(window.language for window in windows):
            return [(window.language, None) for window in windows]
        ids = self._tokenizer.specials
        start = torch.full((len(windows), 1), ids.sot, device=self._device)
        hidden = self._model.decoder(start, torch.zeros_like(start), self._cache, slots, 1)
        logits = self._model.decoder.logits(hidden[:, 0])[:, ids.sot + 1 : ids.sot + 1 + len(ids.languages)]
        found = torch.stack([column.float() for column in logits.softmax(-1).max(-1)]).T.tolist()
        detected = [(ids.languages[int(index)], probability) for probability, index in found]
        return [(w.language, None) if w.language else d for w, d in zip(windows, detected, strict=True)]

    def _prefill(self, windows: Sequence[Window], spoken: Sequence[tuple[str | None, float | None]], slots: slice) -> None:
        """Read the prompts and decode the first token; prompts are padded on the right, where nothing looks."""
        ids = self._tokenizer.specials
        room = self._model.dims.n_text_ctx // 2 - 1  # half the context is for what is decoded
        prompts = [self._tokenizer.prompt(s[0], w.task, w.prompt, room=room) for w, s in zip(windows, spoken, strict=True)]
        longest = max(map(len, prompts))
        tokens = torch.tensor([p + [ids.eot] * (longest - len(p)) for p in prompts], device=self._device)  # [B, T]
        positions = torch.arange(longest, device=self._device).expand_as(tokens)
        hidden = self._model.decoder(tokens, positions, self._cache, slots, longest)

        lengths = torch.tensor([len(p) for p in prompts], device=self._device)
        starts = torch.tensor([p.index(ids.sot) for p in prompts], device=self._device)
        rows = torch.arange(len(prompts), device=self._device)
        at_start = self._model.decoder.logits(hidden[rows, starts])
        no_speech = at_start.softmax(-1)[:, ids.no_speech]
        logits = at_start if longest == 1 else self._model.decoder.logits(hidden[rows, lengths - 1])

        self._prompt[slots] = lengths
        for field_, empty in zip(self._history.fields(), History.empty(len(windows), ids, self._device).fields(), strict=True):
            field_[slots] = empty
        for window, prompt, (language, probability), silence in zip(windows, prompts, spoken, no_speech.tolist(), strict=True):
            self._rows.append(_Row(window, len(prompt), silence, language, probability))
        self._append(logits, slots)

    def _step(self) -> None:
        """Every row's next token."""
        slots = slice(0, len(self._rows))
        history = self._history.rows(slots)
        positions = (self._prompt[slots] + history.count - 1)[:, None]  # [B, 1]
        length = max(row.length for row in self._rows)
        hidden = self._model.decoder(history.last[:, None], positions, self._cache, slots, length)
        self._append(self._model.decoder.logits(hidden[:, 0]), slots)

    def _append(self, logits: Tensor, slots: slice) -> None:
        """Pick a token for each row of `slots` and write it down: the one copy to the host."""
        history = self._history.rows(slots)
        token, logprob = pick(logits, self._bias, history, self._tokenizer.specials)
        history.append(token, self._tokenizer.specials)
        # A token's id is below 2^24, so float32 holds it.
        for row, picked, chance in zip(self._rows[slots], *torch.stack((token.float(), logprob)).tolist(), strict=True):
            row.tokens.append(int(picked))
            row.logprob += chance

    def _leave(self) -> list[tuple[Window, WindowResult]]:
        """Take out the rows that are finished."""
        finished = [index for index, row in enumerate(self._rows) if self._is_finished(row)]
        done = [(self._rows[index].window, self._result(self._rows[index])) for index in finished]
        self._remove(finished)
        return done

    def _is_finished(self, row: _Row) -> bool:
        if row.window.detect_only or row.tokens[-1] == self._tokenizer.specials.eot or row.length >= self._model.dims.n_text_ctx:
            return True
        return len(row.tokens) % self._max_new_tokens == 0 and loop_start(self._text_of(row)) is not None

    def _remove(self, indices: Sequence[int]) -> None:
        """Take rows out; the last ones move into their places."""
        for index in sorted(indices, reverse=True):
            last = self._rows.pop()
            if index < len(self._rows):
                self._rows[index] = last
                self._cache.move(len(self._rows), index)
                for buffer in (self._prompt, *self._history.fields()):
                    buffer[index] = buffer[len(self._rows)]

    def _text_of(self, row: _Row) -> list[int]:
        return [token for token in row.tokens if token < self._tokenizer.specials.eot]

    def _result(self, row: _Row) -> WindowResult:
        """The result of a row whose decoding has ended, by whatever end."""
        language = (row.language, row.language_probability)
        if row.window.detect_only:
            return WindowResult((), None, *language)
        ids = self._tokenizer.specials
        loop = loop_start(self._text_of(row))
        tokens = row.tokens if loop is None else _first_texts(row.tokens, loop, ids)
        exhausted = loop is None and row.tokens[-1] != ids.eot
        text = self._tokenizer.decode(tokens)
        evidence = Evidence(
            row.logprob / len(row.tokens), row.no_speech_prob, compression_ratio(text), 0.0, len(row.tokens), loop is not None, exhausted
        )  # fmt: skip
        if is_not_speech(evidence):
            return WindowResult((), evidence, *language)
        parts, rest = split_segments(tokens, row.window.seconds, ids)
        if parts and (loop is not None or exhausted):  # go on behind the last part that is whole
            rest = None if parts[-1].open else parts[-1].end
            if parts[-1].open and len(parts) > 1:
                rest = parts.pop().start
        segments = tuple(Segment(p.start, p.end, self._tokenizer.decode(p.ids), tuple(p.ids), evidence) for p in parts)
        return WindowResult(segments, evidence, *language, rest)


def load_engine(folder: Path, settings: Settings) -> WhisperEngine:
    """The engine for a folder with a Whisper checkpoint. Raises ModelUnavailable, OutOfMemory, SettingsError."""
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    attention, why = choose_attention(settings.flash_attention_2, device, dtype)
    checkpoint = open_checkpoint(folder)
    settings.check_window(checkpoint.dims.window_samples / SAMPLE_RATE)
    tokenizer = Tokenizer.from_folder(folder, checkpoint.dims.n_vocab)
    with _memory_errors():
        engine = WhisperEngine(
            settings.model_id,
            load(checkpoint, device, dtype),
            tokenizer,
            checkpoint.suppress or tokenizer.non_speech,
            device_name=device_name(device),
            attention=attention,
            slots=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
        )
    logs.info(
        "engine_loaded", model=settings.model_id, device=engine.device_name, dtype=str(dtype).removeprefix("torch."),
        attention=attention, attention_reason=why, slots=settings.batch_size,
    )  # fmt: skip
    return engine


@dataclass(slots=True)
class Part:
    """The ids between two timestamps. Times in seconds from the window's start."""

    start: float
    end: float
    ids: list[int]
    open: bool = False  # it has no timestamp at its end


def split_segments(tokens: Sequence[int], seconds: float, specials: Specials) -> tuple[list[Part], float | None]:
    """The parts of a window of `seconds`, and where the next one begins if the model said that one begins and not what is in it.

    That is how Whisper says that a window ends inside speech: the timestamp of an end, and once more for a beginning.
    Source: openai/whisper, whisper/transcribe.py.
    """
    parts: list[Part] = []
    start, text, opened = 0.0, list[int](), False
    for token in tokens:
        if token >= specials.timestamp_begin:
            at = min(seconds, (token - specials.timestamp_begin) * network.TIMESTAMP_S)
            if text:
                parts.append(Part(start, at, text))
            start, text, opened = at, [], not text
        elif token < specials.eot:
            text.append(token)
    if text:
        parts.append(Part(start, seconds, text, open=True))
    return parts, start if parts and opened and not text and start < seconds else None


def _first_texts(tokens: Sequence[int], count: int, specials: Specials) -> list[int]:
    """The tokens up to the text token number `count`, that one left out."""
    kept: list[int] = []
    for token in tokens:
        if token < specials.eot:
            if count == 0:
                break
            count -= 1
        kept.append(token)
    return kept


@contextmanager
def _memory_errors() -> Iterator[None]:
    """A device's lack of memory as an error of ours."""
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise OutOfMemory("the device has no memory for so much; expected a smaller BATCH_SIZE or model") from exc


@contextmanager
def _on_device() -> Iterator[None]:
    """Inference."""
    with _memory_errors(), torch.inference_mode():
        yield
