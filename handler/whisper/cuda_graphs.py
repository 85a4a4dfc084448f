"""Capture a step as CUDA graphs for several batch sizes. Knows no model."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Work = Callable[[], Tensor]


Capture = Callable[[Work], tuple[Callable[[], object], Tensor]]  # what replays the work, and where its result then lies


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
