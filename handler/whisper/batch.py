"""Rows of text that grow by a token a step: greedily, by sampling, or as beams. Knows no audio and no schedule.

Active rows are always the first ones of every buffer, so a step works on plain slices; when a row leaves, the last one
takes its place. Source: openai/whisper, whisper/decoding.py (GreedyDecoder, BeamSearchDecoder, MaximumLikelihoodRanker).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from handler.schema.window import SAMPLE_RATE, Window
from handler.whisper.cuda_graphs import Graphs
from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.kv_cache import Cache
from handler.whisper.logit_rules import Choice, History, log_probabilities
from handler.whisper.repetition import LOOP_TOKENS, loop_start
from handler.whisper.step import Step
from handler.whisper.tokenizer import Specials

FASTEST = 12.0  # tokens that nobody says more of in a second: a short window is looked at for a loop sooner
LEFT_OVER_S = 1.0  # seconds of speech at the end of a window that may go without text where the model says that a segment begins


@dataclass(slots=True)
class Hypothesis:
    """One text for a window, with the log-probability of each of its tokens."""

    tokens: list[int]  # decoded, end of text included
    logprobs: list[float]

    @property
    def score(self) -> float:
        """Mean log-probability of a token."""
        return sum(self.logprobs) / len(self.logprobs)

    def rank(self, length_penalty: float | None) -> float:
        """What texts are ordered by. Source: openai/whisper, whisper/decoding.py, MaximumLikelihoodRanker."""
        return self.score if length_penalty is None else sum(self.logprobs) / ((5 + len(self.logprobs)) / 6) ** length_penalty

    def text(self, ids: Specials) -> list[int]:
        """The text tokens."""
        return [token for token in self.tokens if token < ids.eot]


@dataclass(slots=True, eq=False)
class DecodeTask:
    """A window being decoded."""

    window: Window
    prompt: tuple[int, ...]  # ids before the first decoded one
    language: str | None
    languages: dict[str, float]  # probabilities, where they had to be found out
    onset_strength: Tensor  # how much louder the window becomes at each frame, for the times of its words
    positions: int  # of the audio that it hears
    bias: Tensor | None = None  # what is added to its logits instead of the usual. [n_vocab]
    no_speech_prob: float = 0.0
    found: list[Hypothesis] = field(default_factory=list)  # those that are finished

    @property
    def beams(self) -> int:
        """How many rows compete at every step; 0: none do."""
        return self.window.params.num_hypotheses if self.window.params.temperature == 0 and self.window.params.num_hypotheses > 1 else 0

    @property
    def wanted(self) -> int:
        """How many finished texts of beams are enough."""
        return max(1, round(self.beams * self.window.params.patience))

    def best(self, ids: Specials) -> Hypothesis:
        """The likeliest text; one that runs into a loop, likely as loops are, comes behind all others."""
        penalty = self.window.params.length_penalty
        return max(self.found, key=lambda found: (loop_start(found.text(ids)) is None, found.rank(penalty)))


@dataclass(slots=True)
class ActiveSequence:
    """One slot's text so far."""

    job: DecodeTask
    noise: torch.Generator | None = None  # where it samples
    said: Hypothesis = field(default_factory=lambda: Hypothesis([], []))

    @property
    def length(self) -> int:
        """Tokens in the decoder's context."""
        return len(self.job.prompt) + len(self.said.tokens)


class Batch:
    """The rows that are being decoded, and all that is kept for them on the device.

    Where `graphs` are given, they run the steps in which no row samples or competes.
    """

    def __init__(self, step: Step, cache: Cache, specials: Specials, look_every: int, graphs: Graphs | None = None) -> None:
        self.cache = cache
        self.sequences: list[ActiveSequence] = []
        self._step = step
        self._graphs = graphs
        self._ids = specials
        self._slots = cache.slots
        self._look_every = look_every  # after so many tokens a row is looked at for a loop
        self._device = cache.k.device
        self._score = torch.zeros(self._slots, device=self._device)  # sum of the log-probabilities, where rows compete

    def free(self) -> int:
        """Slots without a row."""
        return self._slots - len(self.sequences)

    def add(self, jobs: Sequence[DecodeTask]) -> slice:
        """Rows for new jobs, side by side in the next free slots: which ones they are."""
        slots = slice(len(self.sequences), len(self.sequences) + sum(job.window.params.num_hypotheses for job in jobs))
        for job in jobs:
            self.sequences += [ActiveSequence(job, self._noise(job, index)) for index in range(job.window.params.num_hypotheses)]
        added = self.sequences[slots]
        self._step.prompt[slots] = torch.tensor([len(row.job.prompt) for row in added], device=self._device)
        empty = History.empty(len(added), self._ids, self._device)
        empty.last.copy_(torch.tensor([row.job.prompt[-1] for row in added], device=self._device))
        empty.until += torch.tensor([self._until(row.job.window) for row in added], device=self._device)
        for buffer, value in zip(self._step.history.fields(), empty.fields(), strict=True):
            buffer[slots] = value
        # Beams begin alike: only the first one counts until they differ.
        leading = [index == 0 or not job.beams for job in jobs for index in range(job.window.params.num_hypotheses)]
        self._score[slots] = torch.tensor([0.0 if leads else -torch.inf for leads in leading], device=self._device)
        return slots

    def _until(self, window: Window) -> int:
        """The timestamp token from which on so little speech is left in a window that it may have no text."""
        left = round(LEFT_OVER_S * SAMPLE_RATE)
        for start, end in reversed(window.speech):
            if end - start > left:
                return self._ids.timestamp_begin + max(0, int((end - left - window.start) / SAMPLE_RATE / TIMESTAMP_S))
            left -= end - start
        return 0

    def _noise(self, job: DecodeTask, index: int) -> torch.Generator | None:
        """A row's own source of chance: the same for the same window, whoever shares the batch."""
        params = job.window.params
        if params.temperature == 0:
            return None
        seed = job.window.start + round(1000 * params.temperature) * 1_000_003 + index * 7_919
        return torch.Generator(self._device).manual_seed(seed)

    def advance(self) -> None:
        """One more token for every row."""
        rows = len(self.sequences)
        if any(row.noise is not None or row.job.beams or row.job.bias is not None for row in self.sequences) or self._at_start():
            self._extend(self._step.logits(rows, self._text()))
        elif self._graphs is not None:
            self._write(self.sequences, self._graphs.run(rows).tolist())
        else:
            self._write(self.sequences, self._step.greedy(rows, self._text()).tolist())

    def _at_start(self) -> list[int]:
        """Rows whose next token comes right behind the start of the transcript: its logits tell whether there is speech."""
        return [index for index, row in enumerate(self.sequences) if not row.said.tokens and row.job.prompt[-1] == self._ids.sot]

    def _text(self) -> int:
        """How much of the text's cache a step looks at."""
        return self.cache.length_for(max(row.length for row in self.sequences))

    def resize_audio(self, positions: int) -> None:
        """Make room for windows of so many audio positions; give up room that no row needs, where that is a third or more."""
        needed = max([positions, *(row.job.positions for row in self.sequences)])
        if needed > self.cache.audio or needed <= self.cache.audio * 2 // 3:
            self.cache.resize_audio(needed, len(self.sequences))

    def _extend(self, logits: Tensor) -> None:
        """Choose the next token of each row by its logits [B, n_vocab] and write it down: the one copy to the host."""
        rows = self.sequences
        starting = self._at_start()
        no_speech = logits[starting].softmax(-1)[:, self._ids.no_speech]  # before the rules take it out
        slots = slice(0, len(rows))
        choice = self._step.choose(logits, slots, [row.job.bias for row in rows])
        self._sample(logits, choice, rows)
        groups = _groups(rows)
        beams = [self._compete(logits, choice, rows, group) for group in groups]
        told = torch.cat((self._step.take(choice, slots).flatten(), no_speech, *(found.flatten() for found in beams))).tolist()
        count, at = len(rows), 2 * len(rows)
        for index in starting:
            rows[index].job.no_speech_prob = told[at]
            at += 1
        competing = set[int]()
        for group in groups:
            for members in group:
                size = 3 * 2 * len(members)
                self._write_beams([rows[i] for i in members], told[at : at + size])
                competing.update(members)
                at += size
        alone = [index for index in range(count) if index not in competing]
        self._write([rows[i] for i in alone], [[told[i] for i in alone], [told[count + i] for i in alone]])

    @staticmethod
    def _write(rows: Sequence[ActiveSequence], told: Sequence[Sequence[float]]) -> None:
        """Write down the token and the log-probability that each row has got."""
        for row, token, logprob in zip(rows, *told, strict=True):
            row.said.tokens.append(int(token))
            row.said.logprobs.append(logprob)

    def _sample(self, logits: Tensor, choice: Choice, rows: Sequence[ActiveSequence]) -> None:
        """Replace the choice of rows that sample: the greatest of the tempered log-probabilities, each with Gumbel noise."""
        indices = [index for index, row in enumerate(rows) if row.noise is not None]
        if not indices:
            return
        index = torch.tensor(indices, device=logits.device)
        chances = log_probabilities(logits, choice, index, self._ids)
        temperatures = torch.tensor([rows[i].job.window.params.temperature for i in indices], device=logits.device)
        noise = torch.stack([torch.empty_like(chances[0]).exponential_(generator=rows[i].noise) for i in indices])
        token = (chances / temperatures[:, None] - noise.log()).argmax(-1)
        choice.token[index] = token
        choice.logprob[index] = chances.gather(1, token[:, None])[:, 0]

    def _compete(self, logits: Tensor, choice: Choice, rows: Sequence[ActiveSequence], group: list[list[int]]) -> Tensor:
        """One step of beam search for jobs of one width.

        The rows take over the likeliest continuations that do not end. Gives back the 2 * W candidates of each job,
        likeliest first: parent (0 … W − 1), token and log-probability of the whole text. [jobs, 3, 2 * W]
        """
        width = len(group[0])
        slots = torch.tensor(group, device=logits.device)  # [G, W]
        chances = log_probabilities(logits, choice, slots.flatten(), self._ids).view(len(group), width, -1)
        total = self._score[slots][:, :, None] + chances  # [G, W, V]
        best, at = total.flatten(1).topk(2 * width)  # [G, 2 * W]
        parent, token = at // total.shape[-1], at % total.shape[-1]
        going_on = (token == self._ids.eot).int().sort(dim=1, stable=True).indices[:, :width]
        parents = slots.gather(1, parent.gather(1, going_on))  # [G, W]
        self.cache.reorder(slots.flatten(), parents.flatten(), max(rows[i].length for members in group for i in members))
        for buffer in self._step.history.fields():
            buffer[slots] = buffer[parents]
        choice.token[slots] = token.gather(1, going_on)
        self._score[slots] = best.gather(1, going_on)
        return torch.stack((parent.float(), token.float(), best), 1)

    def _write_beams(self, rows: Sequence[ActiveSequence], told: list[float]) -> None:
        """Write down what `_compete` has decided for one job: `told` is its candidates' parents, tokens and scores."""
        count = 2 * len(rows)
        before = [row.said for row in rows]
        sums = [sum(hypothesis.logprobs) for hypothesis in before]
        room = list(rows)
        for parent, token, score in zip(*(told[at : at + count] for at in range(0, 3 * count, count)), strict=True):
            source = before[int(parent)]
            grown = Hypothesis([*source.tokens, int(token)], [*source.logprobs, score - sums[int(parent)]])
            if int(token) == self._ids.eot:
                rows[0].job.found.append(grown)
            else:
                room.pop(0).said = grown
            if not room:
                return

    def leave(self) -> list[tuple[int, DecodeTask]]:
        """Jobs that are done, each with a slot that still holds its audio. Their other rows have left; `remove` lets the rest go."""
        done: list[DecodeTask] = []
        gone: list[int] = []
        for mine in _by_job(self.sequences):
            job = self.sequences[mine[0]].job
            over = self._over(job, mine)
            if not job.beams or len(job.found) < job.wanted:  # beams that all break off: their open texts count too
                job.found += [self.sequences[index].said for index in over]
            if len(over) == len(mine):
                done.append(job)
                gone += mine[1:]
            else:
                gone += over
        self.remove(gone)
        places = {id(row.job): index for index, row in enumerate(self.sequences)}
        return [(places[id(job)], job) for job in done]

    def _over(self, job: DecodeTask, mine: Sequence[int]) -> list[int]:
        """Which of a job's rows have come to an end; beams end together."""
        over = [index for index in mine if self._is_over(self.sequences[index])]
        if not job.beams:
            return over
        return list(mine) if len(job.found) >= job.wanted or len(over) == len(mine) else []

    def _is_over(self, row: ActiveSequence) -> bool:
        said = row.said
        if row.job.window.params.detect_only or row.length >= self.cache.context:
            return True
        if not said.tokens:
            return False
        if said.tokens[-1] == self._ids.eot:
            return True
        look_every = min(self._look_every, LOOP_TOKENS + math.ceil(FASTEST * row.job.window.seconds))
        return len(said.tokens) % look_every == 0 and loop_start(said.text(self._ids)) is not None

    def remove(self, indices: Sequence[int]) -> None:
        """Take rows out; the last ones move into their places."""
        for index in sorted(indices, reverse=True):
            last = self.sequences.pop()
            if index < len(self.sequences):
                self.sequences[index] = last
                self.cache.move(len(self.sequences), index, last.length)
                for buffer in (self._step.prompt, self._score, *self._step.history.fields()):
                    buffer[index] = buffer[len(self.sequences)]


def _by_job(rows: Sequence[ActiveSequence]) -> list[list[int]]:
    """Places of the rows of each job."""
    jobs: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        jobs.setdefault(id(row.job), []).append(index)
    return list(jobs.values())


def _groups(rows: Sequence[ActiveSequence]) -> list[list[list[int]]]:
    """Places of the rows that compete, job by job, jobs of one width together."""
    widths: dict[int, list[list[int]]] = {}
    for members in _by_job(rows):
        if width := rows[members[0]].job.beams:
            widths.setdefault(width, []).append(members)
    return list(widths.values())
