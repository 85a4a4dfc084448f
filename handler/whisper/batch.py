"""The running batch, in which every sequence grows by one token per step. Knows no audio, no schedule.

Tokens are chosen greedily, by sampling, or by beam search. A slot is the place of one sequence in every buffer. Active
sequences always occupy the first slots, so a step works on plain slices. When a sequence leaves, the last sequence
moves into its slot. Source: openai/whisper, whisper/decoding.py (GreedyDecoder).
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

MAX_TOKENS_PER_S = 12.0  # speech has fewer, so a short window with more is checked for a loop early
MAX_SPEECH_WITHOUT_TEXT_S = 1.0  # speech at a window's end that may lack text after a segment's start


class Batch:
    """The sequences that are being decoded, and their buffers on the device.

    `loop_check_interval` is the number of tokens after which a sequence is checked for a loop. `graphs` hold the greedy
    step as CUDA graphs. They are replayed whenever a step needs nothing but the likeliest token of each sequence, and
    the step runs without graphs if `graphs` is None.
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

    @property
    def has_graphs(self) -> bool:
        """Whether greedy steps are replayed as graphs."""
        return self._graphs is not None

    def free(self) -> int:
        """Return the number of slots without a sequence."""
        return self.cache.slots - len(self.sequences)

    def add(self, tasks: Sequence[DecodeTask]) -> slice:
        """Start the sequences of `tasks`, in the order of the tasks, in the next free slots. Return these slots."""
        start = len(self.sequences)
        for task in tasks:
            for index in range(task.window.params.num_hypotheses):
                self.sequences.append(ActiveSequence(task, self._generator(task, index)))
        slots = slice(start, len(self.sequences))
        self.cache.clear_text(slots)
        sequences = self.sequences[slots]
        prompt_lengths = [len(sequence.task.prompt) for sequence in sequences]
        self._step.prompt_lengths[slots] = torch.tensor(prompt_lengths, device=self._device)
        history = self._initial_history(sequences)
        for buffer, value in zip(self._step.history.fields(), history.fields(), strict=True):
            buffer[slots] = value
        self._beam_search.start(slots, tasks)
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

    def _generator(self, task: DecodeTask, index: int) -> torch.Generator | None:
        """Return the random generator of sequence number `index` of a task, or None at temperature 0.

        The seed depends on the window's start, the temperature and `index`, but not on the other sequences in the
        batch.
        """
        params = task.window.params
        if params.temperature == 0:
            return None
        seed = task.window.start + round(1000 * params.temperature) * 1_000_003 + index * 7_919
        return torch.Generator(self._device).manual_seed(seed)

    def advance(self) -> None:
        """Decode the next token of every sequence."""
        count = len(self.sequences)
        if self._needs_logits():
            self._extend(self._step.logits(count, self._text_length()))
        elif self._graphs is not None:
            self._append(*self._graphs.run(count).tolist())
        else:
            self._append(*self._step.greedy(count, self._text_length()).tolist())

    def _needs_logits(self) -> bool:
        """Return whether the next step must do more than choose the likeliest token of each sequence."""
        for sequence in self.sequences:
            if sequence.generator is not None or sequence.task.beam_size or sequence.task.bias is not None:
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

    def resize_audio(self, positions: int) -> None:
        """Resize the cross-attention cache so that windows of `positions` audio positions fit.

        Space for the windows in the batch is kept. The cache shrinks only if at least a third of the length is unused.
        """
        needed = max([positions, *(sequence.task.audio_positions for sequence in self.sequences)])
        if needed > self.cache.audio_length or needed <= self.cache.audio_length * 2 // 3:
            self.cache.resize_audio(needed, len(self.sequences))

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
        """Draw the next token of each sequence that has a random generator, by the Gumbel-max trick.

        The token and its log-probability are replaced in `choice`. The tokens are drawn after the log-probabilities
        have been divided by the sequence's temperature, but `choice` gets the undivided ones.
        """
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
        """Remove the sequences in `slots`. The last sequences of the batch move into the slots that become free."""
        buffers = (self._step.prompt_lengths, self._beam_search.scores, *self._step.history.fields())
        for slot in sorted(slots, reverse=True):
            sequence = self.sequences.pop()
            source = len(self.sequences)
            if slot < source:
                self.sequences[slot] = sequence
                self.cache.copy_slot(source, slot, sequence.length)
                for buffer in buffers:
                    buffer[slot] = buffer[source]
