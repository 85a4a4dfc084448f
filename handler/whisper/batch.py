"""The running batch, in which every sequence grows by one token per step. Knows no audio, no schedule.

Tokens are chosen greedily, by sampling, or by beam search. A slot is the place of one sequence in every buffer, and an
audio slot the place of the audio of one task, which all its sequences attend to. Active sequences and tasks always
occupy the first slots, so a step works on plain slices. When one leaves, the last one moves into its slot.
Source: openai/whisper, whisper/decoding.py (GreedyDecoder).
"""

import math
import random
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from handler.schema.window import SAMPLE_RATE, Window
from handler.tokens.repetition import MIN_LOOP_TOKENS, loop_start
from handler.whisper.attention import SharedAudio
from handler.whisper.beam_search import BeamSearch, beam_groups
from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.kv_cache import KVCache
from handler.whisper.logit_rules import Choice, History, log_probabilities
from handler.whisper.sequences import ActiveSequence, DecodeTask, slots_by_task
from handler.whisper.step import Step
from handler.whisper.step_graphs import StepGraphs
from handler.whisper.tokenizer import Specials

MAX_TOKENS_PER_S = 12.0  # speech has fewer, so a short window with more is checked for a loop early
MAX_SPEECH_WITHOUT_TEXT_S = 1.0  # speech at a window's end that may lack text after a segment's start


class Batch:
    """The sequences that are being decoded, and their buffers on the device.

    `loop_check_interval` is the number of tokens after which a sequence is checked for a loop. The step runs without
    graphs if `graphs` is None.
    """

    def __init__(
        self, step: Step, cache: KVCache, specials: Specials, loop_check_interval: int, graphs: StepGraphs | None = None
    ) -> None:
        self.cache = cache
        self.sequences: list[ActiveSequence] = []  # by slot
        self.tasks: list[DecodeTask] = []  # by audio slot
        self._audio_rows: list[int] = []  # the audio slot of each sequence, where audio is shared
        self._step = step
        self._graphs = graphs
        self._ids = specials
        self._loop_check_interval = loop_check_interval  # tokens
        self._device = cache.k.device
        self._beam_search = BeamSearch(cache, step.history, specials)

    @property
    def has_graphs(self) -> bool:
        """Whether greedy steps are replayed as graphs."""
        return self._graphs is not None

    def free(self) -> int:
        """Return the number of slots without a sequence."""
        return self.cache.slots - len(self.sequences)

    def add(self, tasks: Sequence[DecodeTask]) -> slice:
        """Start the sequences of `tasks`, in the order of the tasks, in the next free slots. Return these slots.

        The next free audio slots must hold the audio of the tasks.
        """
        start = len(self.sequences)
        self.tasks += tasks
        for task in tasks:
            for index in range(task.window.params.num_hypotheses):
                self.sequences.append(ActiveSequence(task, self._chance(task, index)))
        slots = slice(start, len(self.sequences))
        self.cache.clear_text(slots)
        sequences = self.sequences[slots]
        prompt_lengths = [len(sequence.task.prompt) for sequence in sequences]
        self._step.prompt_lengths[slots] = torch.tensor(prompt_lengths, device=self._device)
        history = self._initial_history(sequences)
        for buffer, value in zip(self._step.history.fields(), history.fields(), strict=True):
            buffer[slots] = value
        self._beam_search.start(slots, tasks)
        self._locate_audio()
        return slots

    def _initial_history(self, sequences: Sequence[ActiveSequence]) -> History:
        """Return the history of sequences that have a prompt and no decoded token yet."""
        history = History.empty(len(sequences), self._ids, self._device)
        last_tokens = [sequence.task.prompt[-1] for sequence in sequences]
        history.last.copy_(torch.tensor(last_tokens, device=self._device))
        bounds = [self._text_required_until(sequence.task.window) for sequence in sequences]
        history.text_required_until += torch.tensor(bounds, device=self._device)
        return history

    def _text_required_until(self, window: Window) -> int:
        """Return the timestamp token after which only MAX_SPEECH_WITHOUT_TEXT_S of speech remain in the window.

        Return 0, which is below every timestamp token, if the whole window has no more speech than this.
        """
        remaining = round(MAX_SPEECH_WITHOUT_TEXT_S * SAMPLE_RATE)
        for start, end in reversed(window.speech):
            if end - start > remaining:
                offset_s = (end - remaining - window.start) / SAMPLE_RATE
                return self._ids.timestamp_begin + max(0, int(offset_s / TIMESTAMP_S))
            remaining -= end - start
        return 0

    def _chance(self, task: DecodeTask, index: int) -> random.Random | None:
        """Return the source of chance of sequence number `index` of a task, or None at temperature 0.

        The seed depends on the window's start, the temperature and `index`, but not on the other sequences in the
        batch.
        """
        params = task.window.params
        if params.temperature == 0:
            return None
        return random.Random(task.window.start + round(1000 * params.temperature) * 1_000_003 + index * 7_919)

    def advance(self) -> None:
        """Decode the next token of every sequence."""
        count = len(self.sequences)
        if self._needs_logits():
            self._extend(self._logits(count))
        elif self._graphs is not None:
            self._append(*self._graphs.greedy(count).tolist())
        else:
            self._append(*self._step.greedy(count, self._text_length()).tolist())

    def _logits(self, count: int) -> Tensor:
        """Return the logits of the next token of each of `count` sequences, by a graph if there is one."""
        audio = self._shared_audio()
        logits = self._graphs.logits(count, audio) if self._graphs is not None else None
        return self._step.logits(count, self._text_length(), audio) if logits is None else logits

    def _needs_logits(self) -> bool:
        """Return whether the next step must do more than choose the likeliest token of each sequence."""
        for sequence in self.sequences:
            if sequence.chance is not None or sequence.task.beam_size or sequence.task.bias is not None:
                return True
        return bool(self._at_start())

    def _at_start(self) -> list[int]:
        """Return the slots whose next token follows the start-of-transcript token.

        The logits for this next token give the no-speech probability.
        """
        return [
            slot
            for slot, sequence in enumerate(self.sequences)
            if not sequence.hypothesis.tokens and sequence.task.prompt[-1] == self._ids.sot
        ]

    def _text_length(self) -> int:
        """Return how many text positions of the KV cache the next step attends to."""
        return self.cache.length_for(max(sequence.length for sequence in self.sequences))

    def audio(self, slots: slice) -> slice | SharedAudio:
        """Return which audio the sequences in `slots` attend to. The slots must be all those of their tasks."""
        if (audio := self._shared_audio()) is None:
            return slots
        first, end = min(self._audio_rows[slots]), max(self._audio_rows[slots]) + 1
        return SharedAudio(slice(first, end), audio.rows[slots] - first, audio.lanes[slots], audio.width)

    def audio_slot(self, task: DecodeTask) -> int:
        """Return the audio slot of a task."""
        return next(slot for slot, other in enumerate(self.tasks) if other is task)

    def _shared_audio(self) -> SharedAudio | None:
        """Return which audio all sequences attend to, or None if that is the audio slot of the same number for each."""
        if len(self.tasks) == len(self.sequences):
            return None
        width = max(task.window.params.num_hypotheses for task in self.tasks)
        return self._step.shared_audio(len(self.sequences), len(self.tasks), width)

    def _locate_audio(self) -> None:
        """Write to the device which audio each sequence attends to. Slots without a sequence have an audio slot alone.

        Where each task has one sequence, the sequences are put into the order of the tasks.
        """
        row_of = {id(task): row for row, task in enumerate(self.tasks)}
        rows = self._audio_rows = [row_of[id(sequence.task)] for sequence in self.sequences]
        if len(self.tasks) == len(rows):
            self._permute(sorted(range(len(rows)), key=rows.__getitem__))
            return
        lanes, seen = [0] * self.cache.slots, [0] * len(self.tasks)
        for slot, row in enumerate(rows):
            lanes[slot] = seen[row]
            seen[row] += 1
        located = torch.tensor([[*rows, *range(len(rows), self.cache.slots)], lanes], device=self._device)
        self._step.audio_rows.copy_(located[0])
        self._step.audio_lanes.copy_(located[1])

    def _permute(self, order: Sequence[int]) -> None:
        """Move the sequence in slot order[i] to slot i, for each i."""
        if list(order) == list(range(len(order))):
            return
        slots, sources = torch.tensor([[*range(len(order))], [*order]], device=self._device)
        self.cache.reorder(slots, sources, max(sequence.length for sequence in self.sequences))
        for buffer in self._buffers():
            buffer[slots] = buffer[sources]
        self.sequences = [self.sequences[source] for source in order]

    def resize_audio(self, positions: int) -> None:
        """Resize the cross-attention cache so that windows of `positions` audio positions fit.

        Space for the windows in the batch is kept. The cache shrinks only if at least a third of the length is unused.
        """
        needed = max([positions, *(task.audio_positions for task in self.tasks)])
        if needed > self.cache.audio_length or needed <= self.cache.audio_length * 2 // 3:
            self.cache.resize_audio(needed, len(self.tasks))

    def _extend(self, logits: Tensor) -> None:
        """Choose the next token of each sequence from logits [B, n_vocab], and append it to the sequence.

        Also set the no-speech probability of each task that has a sequence in one of the slots `_at_start` returns.
        All values are copied to the host at once.
        """
        sequences = self.sequences
        slots = slice(0, len(sequences))
        starting = self._at_start()
        no_speech = logits[starting].softmax(-1)[:, self._ids.no_speech]  # read before the rules suppress the token
        choice = self._step.choose(logits, slots, [sequence.task.bias for sequence in sequences])
        self._sample(logits, choice)
        groups = beam_groups(sequences)
        candidates = [self._beam_search.step(logits, choice, sequences, group).flatten() for group in groups]
        chosen = self._step.append(choice, slots)  # [2, B]
        values = iter(torch.cat((chosen.flatten(), no_speech, *candidates)).tolist())
        tokens, logprobs = list(islice(values, len(sequences))), list(islice(values, len(sequences)))
        for slot in starting:
            sequences[slot].task.no_speech_prob = next(values)
        for group in groups:
            for beam_slots in group:
                self._beam_search.extend([sequences[slot] for slot in beam_slots], values)
        for sequence, token, logprob in zip(sequences, tokens, logprobs, strict=True):
            if not sequence.task.beam_size:
                sequence.hypothesis.append(int(token), logprob)

    def _append(self, tokens: Sequence[float], logprobs: Sequence[float]) -> None:
        """For each slot i, append tokens[i] and its log-probability logprobs[i] to the sequence in the slot."""
        for sequence, token, logprob in zip(self.sequences, tokens, logprobs, strict=True):
            sequence.hypothesis.append(int(token), logprob)

    def _sample(self, logits: Tensor, choice: Choice) -> None:
        """Draw the next token of each sequence that has a source of chance, by inverting the distribution function.

        The token and its log-probability are replaced in `choice`. The tokens are drawn after the log-probabilities
        have been divided by the sequence's temperature, but `choice` gets the undivided ones.
        """
        drawn = [
            (slot, sequence.task.window.params.temperature, sequence.chance.random())
            for slot, sequence in enumerate(self.sequences)
            if sequence.chance is not None
        ]
        if not drawn:
            return
        index = torch.tensor([slot for slot, _, _ in drawn], device=logits.device)
        numbers = torch.tensor([numbers for _, *numbers in drawn], device=logits.device, dtype=torch.float64)
        temperature, share = numbers[:, :1], numbers[:, 1:]  # [n, 1] each
        logprobs = log_probabilities(logits, choice, index, self._ids)  # [n, n_vocab]
        sums = (logprobs / temperature.float()).softmax(-1).cumsum(-1, dtype=torch.float64)
        token = torch.searchsorted(sums, share * sums[:, -1:], right=True)
        token.clamp_(max=logprobs.shape[1] - 1)  # numbers that are not finite have no place in the sums
        choice.token[index] = token[:, 0]
        choice.logprob[index] = logprobs.gather(1, token)[:, 0]

    def collect_finished(self) -> list[tuple[int, DecodeTask]]:
        """Return (slot, task) for each finished task. The slot still holds the keys and values of the task's audio.

        Sequences that have ended in any other slot are removed from the batch. The caller must pass the returned slots
        to `remove` once the results have been built.
        """
        tasks: list[DecodeTask] = []
        released: list[int] = []
        for slots in slots_by_task(self.sequences):
            task = self.sequences[slots[0]].task
            ended = self._ended(task, slots)
            # A beam search that stops early, at a full context or in loops, counts its unfinished hypotheses.
            if not task.beam_size or len(task.finished) < task.max_candidates:
                task.finished += [self.sequences[slot].hypothesis for slot in ended]
            if len(ended) == len(slots):
                tasks.append(task)
                released += slots[1:]
            else:
                released += ended
        self.remove(released)
        task_slots = {id(sequence.task): slot for slot, sequence in enumerate(self.sequences)}
        return [(task_slots[id(task)], task) for task in tasks]

    def _ended(self, task: DecodeTask, slots: Sequence[int]) -> list[int]:
        """Return which of a task's slots hold sequences that have ended. All beams of a task end at the same time."""
        ended = [slot for slot in slots if self._is_finished(self.sequences[slot])]
        if not task.beam_size:
            return ended
        return list(slots) if len(task.finished) >= task.max_candidates or len(ended) == len(slots) else []

    def _is_finished(self, sequence: ActiveSequence) -> bool:
        """Return whether a sequence has ended.

        A sequence ends at the end-of-text token, when the decoder's context is full, or when its tokens end in a loop.
        A sequence that serves only for language detection ends at once.
        """
        window, hypothesis = sequence.task.window, sequence.hypothesis
        if window.params.detect_only or sequence.length >= self.cache.context:
            return True
        if not hypothesis.tokens:
            return False
        if hypothesis.tokens[-1] == self._ids.eot:
            return True
        interval = min(self._loop_check_interval, MIN_LOOP_TOKENS + math.ceil(MAX_TOKENS_PER_S * window.seconds))
        if len(hypothesis.tokens) % interval:
            return False
        return loop_start(hypothesis.text_tokens(self._ids)) is not None

    def remove(self, slots: Sequence[int]) -> None:
        """Remove the sequences in `slots`, and the tasks that have none left."""
        for slot in sorted(slots, reverse=True):
            sequence = self.sequences.pop()
            source = len(self.sequences)
            if slot < source:
                self.sequences[slot] = sequence
                self.cache.copy_text(source, slot, sequence.length)
                for buffer in self._buffers():
                    buffer[slot] = buffer[source]
        if slots:
            self._remove_tasks()
            self._locate_audio()

    def _remove_tasks(self) -> None:
        """Remove the tasks that have no sequence left."""
        active = {id(sequence.task) for sequence in self.sequences}
        for slot in reversed(range(len(self.tasks))):
            if id(self.tasks[slot]) not in active:
                task = self.tasks.pop()
                if slot < len(self.tasks):
                    self.tasks[slot] = task
                    self.cache.copy_audio(len(self.tasks), slot)

    def _buffers(self) -> tuple[Tensor, ...]:
        """Return the buffers on the device that hold something of each slot, apart from the KV cache."""
        return (self._step.prompt_lengths, self._beam_search.scores, *self._step.history.fields())
