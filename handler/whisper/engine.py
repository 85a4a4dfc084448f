"""Whisper over slots: windows are admitted into free rows, every step advances all rows by one token, finished rows leave.

Satisfies longform.Engine. Knows no request, no file, no schedule and no policy: a result carries its evidence, others judge it.
"""

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import torch
from torch import Tensor

from handler.errors import OutOfMemory
from handler.schema.window import SAMPLE_RATE, Samples, Window, WindowResult
from handler.timeline import Timeline
from handler.whisper.alignment import onset_strength
from handler.whisper.alignment_heads import alignment_heads
from handler.whisper.batch import Batch, DecodeTask
from handler.whisper.cuda_graphs import Graphs, cuda_capture, sizes_up_to
from handler.whisper.kv_cache import Cache
from handler.whisper.logit_rules import suppression
from handler.whisper.model import LogMel, Whisper
from handler.whisper.results import ResultBuilder
from handler.whisper.step import Step
from handler.whisper.tokenizer import Tokenizer

# A short window is encoded with so much silence behind it, and in no less than so much in all: with less of either, the
# network, trained on 30 s always, begins to repeat itself. Measured on Whisper tiny.en and base: no more word errors.
SILENCE_BEHIND_S = 6.0
SHORTEST_CONTEXT_S = 10.0
CONTEXT_STEP_S = 2.0  # contexts are multiples of it: the fewer lengths, the fewer kernels to set up
TOGETHER = {"cpu": 1}  # windows encoded at once: one fills a CPU, and a short request that comes meanwhile waits for no more


@dataclass(slots=True)
class EncodedAudio:
    """What the encoder made of a window."""

    samples: Samples
    audio: Tensor  # [positions, C]
    onset_strength: Tensor  # [frames]


class WhisperEngine:
    """One Whisper checkpoint on one device."""

    def __init__(
        self, model_id: str, model: Whisper, tokenizer: Tokenizer, suppress: Collection[int], *, device_name: str,
        attention: str, slots: int, max_new_tokens: int, named_heads: Sequence[tuple[int, int]] = (), short_context: bool = False,
        timeline: Timeline | None = None,
    ) -> None:  # fmt: skip
        weight = model.decoder.tokens.weight
        dims = model.dims
        self.model_id = model_id
        self.device_name = device_name
        self.longest_window_s = dims.window_samples / SAMPLE_RATE
        self.languages = tokenizer.specials.languages if tokenizer.specials.multilingual else ("en",)
        self.detects_language = tokenizer.specials.multilingual
        self.dtype = weight.dtype
        self.dtype_name = str(weight.dtype).removeprefix("torch.")
        self.attention = attention
        self._device = weight.device
        self._model = model
        self._tokenizer = tokenizer
        model.attend_by(attention)
        self._short_context = short_context
        self._timeline = timeline or Timeline()
        self._mel = LogMel(dims.n_mels, self._device)
        self._max_new_tokens = max_new_tokens
        self.text_tokens = tokenizer.specials.eot
        self._suppress = tuple(suppress)
        self._bias = suppression(tokenizer.specials, suppress, self._device)
        self._heads = tuple(named_heads) or alignment_heads(dims, self.detects_language)
        self._heard: OrderedDict[int, EncodedAudio] = OrderedDict()  # what was encoded lately, by the samples' id
        self._allocate(slots)

    def _allocate(self, slots: int) -> None:
        """Make everything that grows with the rows."""
        self.max_batch_size = slots
        self.encode_batch_size = min(slots, TOGETHER.get(self._device.type, slots))
        ids = self._tokenizer.specials
        self._cache = Cache(self._model.dims, slots, self._device, self.dtype)
        step = Step(self._model.decoder, self._cache, self._bias, ids)
        self._batch = Batch(step, self._cache, ids, self._max_new_tokens, self._graphs(step))
        self._outcomes = ResultBuilder(self._model.decoder, self._cache, self._tokenizer, self._heads)

    def halve(self) -> None:
        """Go on with half of the rows; all that was admitted is forgotten."""
        del self._batch, self._outcomes, self._cache  # their memory is what the new ones take
        self._heard.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        with memory_errors():
            self._allocate(self.max_batch_size // 2)

    def _graphs(self, step: Step) -> Graphs | None:
        """The step as CUDA graphs; on a CPU there is nothing to gain."""
        if self._device.type != "cuda":
            return None
        dims = self._model.dims
        with self._timeline.span("graphs_captured"), _on_device():
            return Graphs(lambda rows: step.greedy(rows, dims.n_text_ctx), sizes_up_to(self.max_batch_size), cuda_capture())

    def spelled(self, token: int) -> bytes:
        """The bytes that a token of text stands for."""
        return self._tokenizer.spelled(token)

    def free(self) -> int:
        """Rows that could be admitted now."""
        return self._batch.free()

    def admit(self, windows: Sequence[Window]) -> None:
        """Encode windows into the next free rows and read what comes before the first token of each."""
        with _on_device():
            heard = self._encode(windows)
            if self._short_context:
                self._batch.resize_audio(max(len(found.audio) for found in heard))
            first = at = self.max_batch_size - self.free()
            for (rows, _), group in groupby(
                zip(windows, heard, strict=True), lambda pair: (pair[0].params.num_hypotheses, len(pair[1].audio))
            ):
                audio = torch.stack([found.audio for _, found in group])
                self._model.decoder.write_cross_kv(audio, self._cache, slice(at, at + rows * len(audio)))
                at += rows * len(audio)
            languages = self._languages(windows, slice(first, at))
            self._prefill([self._job(*parts) for parts in zip(windows, languages, heard, strict=True)])

    def advance(self) -> list[tuple[Window, WindowResult]]:
        """One token for every row, then the windows that are finished."""
        with _on_device():
            done = self._leave()
            if self._batch.sequences:
                self._batch.advance()
                done += self._leave()
            return done

    def drop(self, windows: Collection[Window]) -> None:
        """Free the rows of windows that nobody waits for."""
        gone = {id(window) for window in windows}
        with _on_device():
            self._batch.remove([index for index, row in enumerate(self._batch.sequences) if id(row.job.window) in gone])

    def _encode(self, windows: Sequence[Window]) -> list[EncodedAudio]:
        """What the network hears in windows. Those that come back, to be decoded in another way, are not encoded again."""
        fresh = sorted((window for window in windows if id(window.samples) not in self._heard), key=self._context)
        for length, group in groupby(fresh, self._context):
            alike = list(group)
            for at in range(0, len(alike), self.encode_batch_size):
                self._hear(alike[at : at + self.encode_batch_size], length)
        found = [self._heard[id(window.samples)] for window in windows]
        while len(self._heard) > self.max_batch_size:
            self._heard.popitem(last=False)
        return found

    def _hear(self, windows: Sequence[Window], length: int) -> None:
        """Encode windows, each padded with silence to `length` samples."""
        batch = np.zeros((len(windows), length), np.float32)
        for row, window in zip(batch, windows, strict=True):
            row[: len(window.samples)] = window.samples
        mel = self._mel(self._on_its_way(torch.from_numpy(batch)))
        encoded = self._model.encoder(mel.to(self.dtype))
        for window, audio, louder in zip(windows, encoded, onset_strength(mel), strict=True):
            self._heard[id(window.samples)] = EncodedAudio(window.samples, audio.clone(), louder)  # a view would keep the whole batch

    def _on_its_way(self, host: Tensor) -> Tensor:
        """The same on the device; nobody waits for the copy, which runs beside what the device is at."""
        if self._device.type == "cuda":
            host = host.pin_memory()
        return host.to(self._device, non_blocking=True)

    def _context(self, window: Window) -> int:
        """How many samples the encoder is given for a window."""
        full = self._model.dims.window_samples
        if not self._short_context:
            return full
        seconds = max(SHORTEST_CONTEXT_S, window.seconds + SILENCE_BEHIND_S)
        return min(full, math.ceil(seconds / CONTEXT_STEP_S) * round(CONTEXT_STEP_S * SAMPLE_RATE))

    def _languages(self, windows: Sequence[Window], slots: slice) -> list[dict[str, float]]:
        """Probability of each language for the windows in `slots`; empty where it is known."""
        if not self.detects_language or all(window.params.language for window in windows):
            return [{} for _ in windows]
        ids = self._tokenizer.specials
        start = torch.full((slots.stop - slots.start, 1), ids.sot, device=self._device)
        hidden = self._model.decoder(start, torch.zeros_like(start), self._cache, slots, 1)
        logits = self._model.decoder.logits(hidden[:, 0])[:, ids.sot + 1 : ids.sot + 1 + len(ids.languages)]
        told = logits.softmax(-1).tolist()
        leading = accumulate((window.params.num_hypotheses for window in windows), initial=0)
        found = [dict(zip(ids.languages, told[row], strict=True)) for row, _ in zip(leading, windows, strict=False)]
        return [{} if window.params.language else languages for window, languages in zip(windows, found, strict=True)]

    def _job(self, window: Window, languages: dict[str, float], heard: EncodedAudio) -> DecodeTask:
        params = window.params
        language = params.language or (max(languages, key=languages.__getitem__) if languages else "en")
        room = self._model.dims.n_text_ctx // 2 - 1  # half the context is for what is decoded
        prompt = self._tokenizer.prompt(language, params.task, params.prompt, params.hotwords, room=room)
        return DecodeTask(
            window, tuple(prompt), language, languages, heard.onset_strength, len(heard.audio), self._bias_for(params.suppress)
        )

    def _bias_for(self, suppress: tuple[int, ...] | None) -> Tensor | None:
        """What is added to the logits of a window that names its own tokens to suppress. [n_vocab]"""
        if suppress is None or suppress == (-1,):
            return None
        ids = {token for token in suppress if token >= 0} | (set(self._suppress) if -1 in suppress else set())
        return suppression(self._tokenizer.specials, ids, self._device)

    def _prefill(self, jobs: Sequence[DecodeTask]) -> None:
        """Read the prompts, padded on the right, where nothing looks, but for their last tokens: these go with the next step."""
        ids = self._tokenizer.specials
        slots = self._batch.add(jobs)
        rows = self._batch.sequences[slots]
        prompts = [row.job.prompt[:-1] for row in rows]
        longest = max(map(len, prompts))
        if not longest:
            return
        tokens = torch.tensor([[*prompt, *[ids.eot] * (longest - len(prompt))] for prompt in prompts], device=self._device)  # [B, T]
        positions = torch.arange(longest, device=self._device).expand_as(tokens)
        hidden = self._model.decoder(tokens, positions, self._cache, slots, longest)
        if self.detects_language:  # language and task come behind the start of the transcript
            starts = torch.tensor([prompt.index(ids.sot) for prompt in prompts], device=self._device)
            at_start = self._model.decoder.logits(hidden[torch.arange(len(prompts), device=self._device), starts])
            for row, probability in zip(rows, at_start.softmax(-1)[:, ids.no_speech].tolist(), strict=True):
                row.job.no_speech_prob = probability

    def _leave(self) -> list[tuple[Window, WindowResult]]:
        """The results of windows that are finished, whose rows become free."""
        done = self._batch.leave()
        results = [(job.window, self._outcomes.result(slot, job)) for slot, job in done]
        self._batch.remove([slot for slot, _ in done])
        return results


@contextmanager
def memory_errors() -> Iterator[None]:
    """A device's lack of memory as an error of ours."""
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise OutOfMemory("the device has no memory for so much; expected a smaller BATCH_SIZE or model") from exc


@contextmanager
def _on_device() -> Iterator[None]:
    """Inference."""
    with memory_errors(), torch.inference_mode():
        yield
