"""Capture a step as CUDA graphs for several batch sizes. Knows no model."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

StepFunction = Callable[[], Tensor]
# A function that replays a step, and the tensor that then holds the result of the step.
CapturedStep = tuple[Callable[[], object], Tensor]
Capture = Callable[[StepFunction], CapturedStep]

WARM_UP_STEPS = 2


class CudaGraphs:
    """A step captured as one CUDA graph for each of several batch sizes.

    The largest size is captured first, so that the graphs of smaller sizes can reuse its memory.
    """

    def __init__(self, step: Callable[[int], Tensor], sizes: Sequence[int], capture: Capture) -> None:
        self._captured: dict[int, CapturedStep] = {}
        for size in sorted(sizes, reverse=True):
            self._captured[size] = capture(lambda size=size: step(size))  # type: ignore[misc]

    def run(self, count: int) -> Tensor:
        """Run the step for the first `count` slots, and return the step's result, [2, count].

        Replays the graph of the smallest captured batch size that is at least `count`.
        """
        replay, result = self._captured[min(size for size in self._captured if size >= count)]
        replay()
        return result[:, :count]


def sizes_up_to(slots: int) -> list[int]:
    """Return the batch sizes to capture, ascending: 1, 2, 4 and multiples of 8 below `slots`, and `slots` itself."""
    return sorted({size for size in (1, 2, 4, *range(8, slots, 8)) if size < slots} | {slots})


def cuda_capture() -> Capture:
    """Return a function that captures a step as a CUDA graph. All graphs that it captures share one memory pool."""
    pool = torch.cuda.graph_pool_handle()

    def capture(step: StepFunction) -> CapturedStep:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # Libraries initialize themselves in their first call, which must not be captured.
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # With "thread_local", other threads may use the device during the capture.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = step()
        return graph.replay, result

    return capture
