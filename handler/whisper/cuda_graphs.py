"""Capture a step as CUDA graphs for several batch sizes. Knows no model."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

StepFunction = Callable[[], Tensor]
CapturedStep = tuple[Callable[[], object], Tensor]  # the function that replays a step, and the tensor of its result
Capture = Callable[[StepFunction], CapturedStep]

WARM_UP_STEPS = 2


class CudaGraphs:
    """A step captured for several batch sizes, the largest first; a batch replays the smallest that holds it."""

    def __init__(self, step: Callable[[int], Tensor], sizes: Sequence[int], capture: Capture) -> None:
        self._captured: dict[int, CapturedStep] = {}
        for size in sorted(sizes, reverse=True):
            self._captured[size] = capture(lambda size=size: step(size))  # type: ignore[misc]

    def run(self, count: int) -> Tensor:
        """Run the step for the first `count` slots. [2, count]"""
        replay, result = self._captured[min(size for size in self._captured if size >= count)]
        replay()
        return result[:, :count]


def sizes_up_to(slots: int) -> list[int]:
    """Return the batch sizes to capture: small powers of two, then multiples of eight, and all slots."""
    return sorted({size for size in (1, 2, 4, *range(8, slots, 8)) if size < slots} | {slots})


def cuda_capture() -> Capture:
    """Return a function that captures steps as CUDA graphs, all of which share one memory pool."""
    pool = torch.cuda.graph_pool_handle()

    def capture(step: StepFunction) -> CapturedStep:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries initialize at their first call, which must not be captured
            for _ in range(WARM_UP_STEPS):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device during the capture.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = step()
        return graph.replay, result

    return capture
