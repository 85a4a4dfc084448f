"""Whisper over slots: windows are admitted into free rows, every step advances all rows by one token, finished rows leave.

Satisfies longform.Engine. Knows no request, no file, no schedule and no policy: a result carries its evidence, others judge it.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, exp
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from handler import logs
from handler.device import choose_attention, choose_device, choose_dtype, device_name
from handler.errors import OutOfMemory
from handler.longform import Samples, Window, WindowResult
from handler.schema import SAMPLE_RATE, Evidence, Segment, Word
from handler.settings import Settings
from handler.whisper import model as network
from handler.whisper.heads import alignment_heads
from handler.whisper.model import Cache, Listening, LogMel, Whisper
from handler.whisper.rules import compression_ratio, loop_start, suppression
from handler.whisper.search import Batch, Job
from handler.whisper.segments import Part, first_texts, split_segments, whole_parts
from handler.whisper.tokenizer import Tokenizer
from handler.whisper.weights import load, open_checkpoint
from handler.whisper.words import TokenTimes, clearest, follow_time, pieces, rise, warp, word_times

TIMED_TOGETHER = 4  # texts whose words are timed in one pass: attention over all of the audio is kept for each token

assert SAMPLE_RATE == network.SAMPLE_RATE


class WhisperEngine:
    """One Whisper checkpoint on one device."""

    def __init__(
        self, model_id: str, model: Whisper, tokenizer: Tokenizer, suppress: Collection[int], *, device_name: str,
        attention: str, slots: int, max_new_tokens: int, named_heads: Sequence[tuple[int, int]] = (),
    ) -> None:  # fmt: skip
        weight = model.decoder.tokens.weight
        dims = model.dims
        self.rows = slots
        self.model_id = model_id
        self.device_name = device_name
        self.longest_window_s = dims.window_samples / SAMPLE_RATE
        self.languages = tokenizer.specials.languages if tokenizer.specials.multilingual else ("en",)
        self.detects_language = tokenizer.specials.multilingual
        self.dtype = weight.dtype
        self._device = weight.device
        self._model = model
        self._tokenizer = tokenizer
        self._attention = attention
        self._heads = tuple(named_heads) or alignment_heads(dims, self.detects_language)
        self._mel = LogMel(dims.n_mels, self._device)
        self._batch = Batch(
            Cache(dims, slots, self._device, self.dtype),
            suppression(tokenizer.specials, suppress, self._device),
            tokenizer.specials,
            slots=slots,
            context=dims.n_text_ctx,
            look_every=max_new_tokens,
        )
        self._heard: OrderedDict[int, tuple[Samples, Tensor, Tensor]] = OrderedDict()  # what was encoded lately, by the samples' id

    def free(self) -> int:
        """Rows that could be admitted now."""
        return self._batch.free()

    def admit(self, windows: Sequence[Window]) -> None:
        """Encode windows into the next free rows and decode the first token of each."""
        with _on_device():
            audio, rises = self._encode(windows)
            count = [window.how.rows for window in windows]
            owner = torch.repeat_interleave(torch.tensor(count, device=self._device))
            first = self.rows - self.free()
            self._model.decoder.attach(audio, self._batch.cache, slice(first, first + sum(count)), owner)
            leading = torch.tensor([first + sum(count[:i]) for i in range(len(count))], device=self._device)
            languages = self._languages(windows, leading)
            self._prefill([self._job(*parts) for parts in zip(windows, languages, rises, strict=True)])

    def advance(self) -> list[tuple[Window, WindowResult]]:
        """One token for every row, then the windows that are finished."""
        with _on_device():
            done = self._leave()
            if self._batch.rows:
                slots, last, positions, length = self._batch.last()
                hidden = self._model.decoder(last, positions, self._batch.cache, slots, length)
                self._batch.extend(self._model.decoder.logits(hidden[:, 0]), slots)
                done += self._leave()
            return done

    def drop(self, windows: Collection[Window]) -> None:
        """Free the rows of windows that nobody waits for."""
        gone = {id(window) for window in windows}
        with _on_device():
            self._batch.remove([index for index, row in enumerate(self._batch.rows) if id(row.job.window) in gone])

    def _encode(self, windows: Sequence[Window]) -> tuple[Tensor, list[Tensor]]:
        """The audio positions of windows [B, S, C], padded with silence to the length the network was trained on; the rise of each.

        Windows that come back, to be decoded in another way, are not encoded again.
        """
        fresh = [window for window in windows if id(window.samples) not in self._heard]
        if fresh:
            batch = np.zeros((len(fresh), self._model.dims.window_samples), np.float32)
            for row, window in zip(batch, fresh, strict=True):
                row[: len(window.samples)] = window.samples
            mel = self._mel(torch.from_numpy(batch).to(self._device))
            encoded = self._model.encoder(mel.to(self.dtype), self._attention)
            for window, audio, louder in zip(fresh, encoded, rise(mel), strict=True):
                self._heard[id(window.samples)] = (window.samples, audio.clone(), louder)  # a view would keep the whole batch
        found = [self._heard[id(window.samples)] for window in windows]
        while len(self._heard) > self.rows:
            self._heard.popitem(last=False)
        return torch.stack([audio for _, audio, _ in found]), [louder for _, _, louder in found]

    def _languages(self, windows: Sequence[Window], slots: Tensor) -> list[dict[str, float]]:
        """Probability of each language for windows in `slots` [n]; empty where it is known."""
        unknown = [index for index, window in enumerate(windows) if window.how.language is None]
        if not self.detects_language or not unknown:
            return [{} for _ in windows]
        ids = self._tokenizer.specials
        start = torch.full((len(unknown), 1), ids.sot, device=self._device)
        hidden = self._model.decoder(start, torch.zeros_like(start), self._batch.cache, slots[unknown], 1)
        logits = self._model.decoder.logits(hidden[:, 0])[:, ids.sot + 1 : ids.sot + 1 + len(ids.languages)]
        found = dict(zip(unknown, logits.softmax(-1).tolist(), strict=True))
        return [dict(zip(ids.languages, found.get(index, ()), strict=False)) for index in range(len(windows))]

    def _job(self, window: Window, languages: dict[str, float], louder: Tensor) -> Job:
        how = window.how
        language = how.language or (max(languages, key=languages.__getitem__) if languages else "en")
        room = self._model.dims.n_text_ctx // 2 - 1  # half the context is for what is decoded
        prompt = self._tokenizer.prompt(language, how.task, how.prompt, how.hotwords, room=room)
        return Job(window, tuple(prompt), language, languages, louder)

    def _prefill(self, jobs: Sequence[Job]) -> None:
        """Read the prompts and decode the first token; prompts are padded on the right, where nothing looks."""
        ids = self._tokenizer.specials
        slots = self._batch.add(jobs)
        prompts = [row.job.prompt for row in self._batch.rows[slots]]
        longest = max(map(len, prompts))
        tokens = self._padded(prompts)  # [B, T]
        positions = torch.arange(longest, device=self._device).expand_as(tokens)
        hidden = self._model.decoder(tokens, positions, self._batch.cache, slots, longest)

        lengths = torch.tensor([len(p) for p in prompts], device=self._device)
        starts = torch.tensor([p.index(ids.sot) for p in prompts], device=self._device)
        rows = torch.arange(len(prompts), device=self._device)
        at_start = self._model.decoder.logits(hidden[rows, starts])
        no_speech = at_start.softmax(-1)[:, ids.no_speech].tolist()
        for row, probability in zip(self._batch.rows[slots], no_speech, strict=True):
            row.job.no_speech_prob = probability
        self._batch.extend(at_start if longest == 1 else self._model.decoder.logits(hidden[rows, lengths - 1]), slots)

    def _padded(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Ids as one tensor, filled up on the right. [B, T]"""
        longest = max(map(len, texts))
        fill = self._tokenizer.specials.eot
        return torch.tensor([[*text, *[fill] * (longest - len(text))] for text in texts], device=self._device)

    def _leave(self) -> list[tuple[Window, WindowResult]]:
        """The results of windows that are finished, whose rows become free."""
        done = self._batch.leave()
        if not done:
            return []
        texts = [self._text(job) for _, job in done]
        said = [(slot, job, text) for (slot, job), text in zip(done, texts, strict=True) if text.parts]
        times: dict[int, TokenTimes] = {}
        for at in range(0, len(said), TIMED_TOGETHER):
            times |= self._times(said[at : at + TIMED_TOGETHER])
        self._batch.remove([slot for slot, _ in done])
        results = []
        for (_, job), text in zip(done, texts, strict=True):
            segments = tuple(self._segments(text, times[id(job)], job)) if text.parts else ()
            results.append((job.window, WindowResult(segments, text.evidence, job.language, job.languages, text.rest_s)))
        return results

    def _text(self, job: Job) -> "_Text":
        """What a job has come to, by whatever end."""
        if job.window.how.detect_only:
            return _Text([], None, None, [])
        ids = self._tokenizer.specials
        best = job.best(ids)
        loop = loop_start(best.text(ids))
        tokens = best.tokens if loop is None else first_texts(best.tokens, loop, ids)
        exhausted = loop is None and best.tokens[-1] != ids.eot
        evidence = Evidence(
            avg_logprob=best.score,
            no_speech_prob=job.no_speech_prob,
            compression_ratio=compression_ratio(self._tokenizer.decode(tokens)),
            temperature=job.window.how.temperature,
            tokens=len(best.tokens),
            looped=loop is not None,
            exhausted=exhausted,
        )
        parts, rest = split_segments(tokens, job.window.seconds, ids)
        if loop is not None or exhausted:
            parts, rest = whole_parts(parts)
        return _Text(parts, rest, evidence, best.logprobs)

    def _times(self, texts: Sequence[tuple[int, Job, "_Text"]]) -> dict[int, TokenTimes]:
        """When each text token of finished jobs begins, the last one's end behind them, and when it is heard best; by the job's id.

        The tokens are read once more, without timestamps, while the slots still hold their audio.
        """
        ids = self._tokenizer.specials
        heads = [(*job.prompt[job.prompt.index(ids.sot) :], ids.no_timestamps) for _, job, _ in texts]
        # The first of these is predicted at the last position of the head; its own position predicts the second.
        said = [[token for part in text.parts for token in part.ids][: self._model.dims.n_text_ctx - len(heads[0])] for _, _, text in texts]
        tokens = self._padded([(*head, *text) for head, text in zip(heads, said, strict=True)])
        positions = torch.arange(tokens.shape[1], device=self._device).expand_as(tokens)
        slots = torch.tensor([slot for slot, _, _ in texts], device=self._device)
        frames = [min(self._model.dims.n_audio_ctx, ceil(job.window.seconds / network.TIMESTAMP_S)) for _, job, _ in texts]
        audio = torch.tensor(frames, device=self._device)
        listening = Listening(self._heads, audio)
        self._model.decoder(tokens, positions, self._batch.cache, slots, tokens.shape[1], listening)
        count = torch.tensor([len(text) + 1 for text in said], device=self._device)
        costs = follow_time(listening.weights()[:, len(heads[0]) - 1 :, : max(frames)], audio)
        begins = warp(costs, count, audio)
        split = begins.shape[1]
        places = [[at * network.TIMESTAMP_S for at in row] for row in torch.cat((begins, clearest(costs, begins)), 1).tolist()]
        found = [TokenTimes(row[: len(text) + 1], row[split : split + len(text)]) for row, text in zip(places, said, strict=True)]
        return {id(job): times for (_, job, _), times in zip(texts, found, strict=True)}

    def _segments(self, text: "_Text", times: TokenTimes, job: Job) -> Iterator[Segment]:
        """Segments with their words, between the first and the last of which they lie."""
        window = job.window
        speech = [((start - window.start) / SAMPLE_RATE, (end - window.start) / SAMPLE_RATE) for start, end in window.speech]
        words = [pieces(part.ids, self._tokenizer) for part in text.parts]
        firsts = accumulate((len(part.ids) for part in text.parts), initial=0)
        places = [(first + piece.start, first + piece.end) for first, part in zip(firsts, words, strict=False) for piece in part]
        when = iter(word_times(places, times, job.rise.cpu().numpy(), speech, window.seconds))
        for part, found in zip(text.parts, words, strict=True):
            timed = []
            for piece in found:
                chances = text.logprobs[part.at + int(piece.start) : part.at + ceil(piece.end)]
                timed.append(Word(*next(when), piece.text, sum(map(exp, chances)) / len(chances)))
            yield Segment(
                timed[0].start, timed[-1].end, self._tokenizer.decode(part.ids), tuple(part.ids), text.evidence, tuple(timed), job.language
            )


@dataclass(slots=True)
class _Text:
    """The text of a finished job."""

    parts: list[Part]
    rest_s: float | None
    evidence: Evidence | None
    logprobs: list[float]  # one for each decoded token


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
            named_heads=checkpoint.alignment_heads,
        )
    logs.info(
        "engine_loaded", model=settings.model_id, device=engine.device_name, dtype=str(dtype).removeprefix("torch."),
        attention=attention, attention_reason=why, slots=settings.batch_size,
    )  # fmt: skip
    return engine


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
