"""One token for every row: the part of decoding that runs on the device without a look back. Knows no window and no job.

All that a step reads and writes lies in buffers that never move, and no shape depends on what they hold, so a step can be
captured once and replayed. Source: pytorch-labs/gpt-fast, generate.py; GeeeekExplorer/nano-vllm, engine/model_runner.py.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from handler.whisper.cache import Cache
from handler.whisper.model import Decoder
from handler.whisper.rules import Choice, History, pick
from handler.whisper.tokenizer import Specials

Work = Callable[[], Tensor]
Capture = Callable[[Work], tuple[Callable[[], object], Tensor]]  # what replays the work, and where its result then lies


class Step:
    """What rows have decoded so far as far as the next token depends on it, and that token."""

    def __init__(self, decoder: Decoder, cache: Cache, bias: Tensor, specials: Specials) -> None:
        self._decoder = decoder
        self._cache = cache
        self._bias = bias
        self._ids = specials
        self.history = History.empty(cache.slots, specials, bias.device)
        self.prompt = torch.zeros(cache.slots, dtype=torch.int64, device=bias.device)  # tokens in front of the first decoded one

    def logits(self, rows: int, text: int) -> Tensor:
        """What comes behind the last token of each of the first `rows` slots, none of which holds more than `text`. [rows, n_vocab]"""
        slots = slice(0, rows)
        history = self.history.rows(slots)
        # Slots without a row may be among them: what these hold does not matter, but it has to have a place.
        positions = (self.prompt[slots] + history.count - 1).clamp(0, self._cache.context - 1)
        hidden = self._decoder(history.last[:, None], positions[:, None], self._cache, slots, text)
        return self._decoder.logits(hidden[:, 0])

    def choose(self, logits: Tensor, slots: slice, own: Sequence[Tensor | None] = ()) -> Choice:
        """The likeliest allowed token of each row of `slots`; the logits are overwritten. `own`: each row's bias, None for the usual."""
        bias = self._bias
        if any(row is not None for row in own):
            bias = torch.stack([bias if row is None else row for row in own])
        return pick(logits, bias, self.history.rows(slots), self._ids)

    def take(self, choice: Choice, slots: slice) -> Tensor:
        """Write chosen tokens down; the tokens and their log-probabilities for the host. [2, B], float32"""
        self.history.rows(slots).append(choice.token, self._ids)
        return torch.stack((choice.token.float(), choice.logprob))  # a token's id is below 2^24, so float32 holds it

    def greedy(self, rows: int, text: int) -> Tensor:
        """The likeliest next token of the first `rows` slots, written down. [2, rows]"""
        slots = slice(0, rows)
        return self.take(self.choose(self.logits(rows, text), slots), slots)


class Graphs:
    """A step captured for batches of several sizes, the largest first; each batch takes the smallest that holds it."""

    def __init__(self, step: Callable[[int], Tensor], sizes: Sequence[int], capture: Capture) -> None:
        self._captured = {size: capture(lambda size=size: step(size)) for size in sorted(sizes, reverse=True)}  # type: ignore[misc]

    def run(self, rows: int) -> Tensor:
        """The step for the first `rows` slots. [2, rows]"""
        replay, told = self._captured[min(size for size in self._captured if size >= rows)]
        replay()
        return told[:, :rows]


def sizes_up_to(slots: int) -> list[int]:
    """Batch sizes worth a graph of their own: powers of two, then every eighth, and all slots."""
    return sorted({size for size in (1, 2, 4, *range(8, slots, 8)) if size < slots} | {slots})


def cuda_capture() -> Capture:
    """Captures into CUDA graphs that share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def capture(work: Work) -> tuple[Callable[[], object], Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up at the first call, which must not be captured
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # other threads may use the device meanwhile
            told = work()
        return graph.replay, told

    return capture
