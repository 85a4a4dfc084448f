"""The running batch: sequences that grow by a token a step, greedy, sampled or as beams. Knows no audio, no schedule.

Active sequences always occupy the first slots of every buffer, so a step works on plain slices; when a sequence leaves,
the last one takes its slot. Source: openai/whisper, whisper/decoding.py (GreedyDecoder).
"""

import math
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from handler.schema.window import SAMPLE_RATE, Window
from handler.whisper.beam_search import BeamSearch, beam_groups
from handler.whisper.cuda_graphs import CudaGraphs
from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.kv_cache import KVCache
from handler.whisper.logit_rules import Choice, History, log_probabilities
from handler.whisper.repetition import MIN_LOOP_TOKENS, loop_start
from handler.whisper.sequences import ActiveSequence, DecodeTask, slots_by_task
from handler.whisper.step import Step
from handler.whisper.tokenizer import Specials

MAX_TOKENS_PER_S = 12.0  # speech has fewer: a short window that decodes more of them is checked for a loop early
MAX_SPEECH_WITHOUT_TEXT_S = 1.0  # speech at a window's end that may stay without text after a segment has begun


class Batch:
    """The sequences that are being decoded, and their buffers on the device.

    `graphs`, if any, run the steps in which no sequence samples, competes or has a bias of its own.
    """

    def __init__(
        self, step: Step, cache: KVCache, specials: Specials, loop_check_interval: int, graphs: CudaGraphs | None = None
    ) -> None:
        self.cache = cache
        self.sequences: list[ActiveSequence] = []
        self._step = step
        self._graphs = graphs
        self._ids = specials
        self._loop_check_interval = loop_check_interval  # tokens
        self._device = cache.k.device
        self._beam_search = BeamSearch(cache, step.history, specials)

    def free(self) -> int:
        """Return the number of slots without a sequence."""
        return self.cache.slots - len(self.sequences)

    def add(self, tasks: Sequence[DecodeTask]) -> slice:
        """Start the sequences of new tasks, side by side in the next free slots, and return these slots."""
        start = len(self.sequences)
        for task in tasks:
            for index in range(task.window.params.num_hypotheses):
                self.sequences.append(ActiveSequence(task, self._generator(task, index)))
        slots = slice(start, len(self.sequences))
        sequences = self.sequences[slots]
        prompt_lengths = [len(sequence.task.prompt) for sequence in sequences]
        self._step.prompt_lengths[slots] = torch.tensor(prompt_lengths, device=self._device)
        history = self._initial_history(sequences)
        for buffer, value in zip(self._step.history.fields(), history.fields(), strict=True):
            buffer[slots] = value
        self._beam_search.start(slots, tasks)
        return slots

    def _initial_history(self, sequences: Sequence[ActiveSequence]) -> History:
        """Return the history of sequences whose prompt is all that they hold."""
        history = History.empty(len(sequences), self._ids, self._device)
        last_tokens = [sequence.task.prompt[-1] for sequence in sequences]
        history.last.copy_(torch.tensor(last_tokens, device=self._device))
        bounds = [self._text_required_until(sequence.task.window) for sequence in sequences]
        history.text_required_until += torch.tensor(bounds, device=self._device)
        return history

    def _text_required_until(self, window: Window) -> int:
        """Return the timestamp token after which MAX_SPEECH_WITHOUT_TEXT_S of speech remain; 0 if there is less."""
        remaining = round(MAX_SPEECH_WITHOUT_TEXT_S * SAMPLE_RATE)
        for start, end in reversed(window.speech):
            if end - start > remaining:
                offset_s = (end - remaining - window.start) / SAMPLE_RATE
                return self._ids.timestamp_begin + max(0, int(offset_s / TIMESTAMP_S))
            remaining -= end - start
        return 0

    def _generator(self, task: DecodeTask, index: int) -> torch.Generator | None:
        """Return a sequence's random generator if it samples, seeded by the window alone and not by the batch."""
        params = task.window.params
        if params.temperature == 0:
            return None
        seed = task.window.start + round(1000 * params.temperature) * 1_000_003 + index * 7_919
        return torch.Generator(self._device).manual_seed(seed)

    def advance(self) -> None:
        """Decode one more token of every sequence."""
        count = len(self.sequences)
        if self._needs_logits():
            self._extend(self._step.logits(count, self._text_length()))
        elif self._graphs is not None:
            self._append(*self._graphs.run(count).tolist())
        else:
            self._append(*self._step.greedy(count, self._text_length()).tolist())

    def _needs_logits(self) -> bool:
        """Return whether the next step does more than to take the likeliest token of each sequence."""
        for sequence in self.sequences:
            if sequence.generator is not None or sequence.task.beam_size or sequence.task.bias is not None:
                return True
        return bool(self._at_start())

    def _at_start(self) -> list[int]:
        """Return slots whose next token follows the start of transcript: its logits hold the no-speech probability."""
        return [
            slot
            for slot, sequence in enumerate(self.sequences)
            if not sequence.hypothesis.tokens and sequence.task.prompt[-1] == self._ids.sot
        ]

    def _text_length(self) -> int:
        """Return how many positions of the text's cache a step attends to."""
        return self.cache.length_for(max(sequence.length for sequence in self.sequences))

    def resize_audio(self, positions: int) -> None:
        """Make space for windows of `positions` audio positions; give up unneeded space if it is a third or more."""
        needed = max([positions, *(sequence.task.audio_positions for sequence in self.sequences)])
        if needed > self.cache.audio_length or needed <= self.cache.audio_length * 2 // 3:
            self.cache.resize_audio(needed, len(self.sequences))

    def _extend(self, logits: Tensor) -> None:
        """Choose each sequence's next token by its logits [B, n_vocab] and append it, with one copy to the host."""
        sequences = self.sequences
        slots = slice(0, len(sequences))
        starting = self._at_start()
        no_speech = logits[starting].softmax(-1)[:, self._ids.no_speech]  # before the rules suppress it
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
        """Append one token and its log-probability to every sequence."""
        for sequence, token, logprob in zip(self.sequences, tokens, logprobs, strict=True):
            sequence.hypothesis.append(int(token), logprob)

    def _sample(self, logits: Tensor, choice: Choice) -> None:
        """Replace the choice of sequences that sample: the greatest tempered log-probability after Gumbel noise."""
        slots: list[int] = []
        temperatures: list[float] = []
        generators: list[torch.Generator] = []
        for slot, sequence in enumerate(self.sequences):
            if sequence.generator is not None:
                slots.append(slot)
                temperatures.append(sequence.task.window.params.temperature)
                generators.append(sequence.generator)
        if not slots:
            return
        index = torch.tensor(slots, device=logits.device)
        logprobs = log_probabilities(logits, choice, index, self._ids)  # [n, n_vocab]
        divisors = torch.tensor(temperatures, device=logits.device)[:, None]
        noise = torch.stack(
            [torch.empty_like(logprobs[0]).exponential_(generator=generator) for generator in generators]
        )
        token = (logprobs / divisors - noise.log()).argmax(-1)
        choice.token[index] = token
        choice.logprob[index] = logprobs.gather(1, token[:, None])[:, 0]

    def collect_finished(self) -> list[tuple[int, DecodeTask]]:
        """Return finished tasks, each with a slot that still holds its audio, and remove their other sequences.

        The caller passes these slots to `remove` once it has read the results.
        """
        tasks: list[DecodeTask] = []
        released: list[int] = []
        for slots in slots_by_task(self.sequences):
            task = self.sequences[slots[0]].task
            ended = self._ended(task, slots)
            if not task.beam_size or len(task.finished) < task.max_candidates:  # beams that break off: open texts count
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
        """Return the slots of a task whose sequences have ended; beams end together."""
        ended = [slot for slot in slots if self._is_finished(self.sequences[slot])]
        if not task.beam_size:
            return ended
        return list(slots) if len(task.finished) >= task.max_candidates or len(ended) == len(slots) else []

    def _is_finished(self, sequence: ActiveSequence) -> bool:
        """Return whether a sequence has nothing to decode, no context left, an end of text, or a loop at its end."""
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
        """Remove the sequences of `slots`; the last ones move into their slots."""
        buffers = (self._step.prompt_lengths, self._beam_search.scores, *self._step.history.fields())
        for slot in sorted(slots, reverse=True):
            sequence = self.sequences.pop()
            source = len(self.sequences)
            if slot < source:
                self.sequences[slot] = sequence
                self.cache.copy_slot(source, slot, sequence.length)
                for buffer in buffers:
                    buffer[slot] = buffer[source]
