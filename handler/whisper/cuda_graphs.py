"""Capture computations as CUDA graphs for several batch sizes. Knows no model."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from handler import logs
from handler.engine.device_errors import is_out_of_memory

StepFunction = Callable[[], Tensor]
# A function that replays a step, and the tensor that then holds the result of the step.
CapturedStep = tuple[Callable[[], object], Tensor]
Capture = Callable[[StepFunction], CapturedStep]

WARM_UP_STEPS = 2
MAX_LOGPROB_DIFFERENCE = 0.05  # between a replayed step and the same step without a graph; kernels may differ


MAX_RELATIVE_DIFFERENCE = 2e-3  # of the results of graphs on demand, by the greatest value


class GraphMismatch(Exception):
    """A graph does not compute what its step computes."""


class CudaGraphs:
    """A step captured as one CUDA graph for each of several batch sizes.

    The largest size is captured first, so that the graphs of smaller sizes can reuse its memory.
    """

    def __init__(self, step: Callable[[int], Tensor], sizes: Sequence[int], capture: Capture) -> None:
        """Capture `step`, which is called with a batch size and returns tokens in row 0 and floats in others."""
        self._step = step
        self._captured: dict[int, CapturedStep] = {}
        for size in sorted(sizes, reverse=True):
            self._captured[size] = capture(lambda size=size: step(size))  # type: ignore[misc]

    def verify(self, clear: Callable[[], object]) -> None:
        """Compare each graph with the step itself. `clear` sets the step's state to the same at every call.

        Raises GraphMismatch, which names the batch size, if a token differs, or another number by more than
        MAX_LOGPROB_DIFFERENCE, or if one is not finite.
        """
        for size, (replay, result) in self._captured.items():
            clear()
            expected = self._step(size).clone()
            clear()
            replay()
            difference = (result - expected).abs()
            if difference[0].any() or not (difference[1:] <= MAX_LOGPROB_DIFFERENCE).all():
                raise GraphMismatch(f"the graph of {size} sequences computes something else than its step")
        clear()

    def run(self, count: int) -> Tensor:
        """Run the step for the first `count` slots, and return the step's result, [rows, count].

        Replays the graph of the smallest captured batch size that is at least `count`.
        """
        replay, result = self._captured[min(size for size in self._captured if size >= count)]
        replay()
        return result[:, :count]


class GraphsOnDemand:
    """A computation captured as one CUDA graph for each batch size that was asked for.

    The computation is run several times when it is captured, which must change nothing.
    """

    def __init__(self, compute: Callable[[int], Tensor], sizes: Sequence[int], capture: Capture) -> None:
        """Prepare graphs of `compute`, which is called with one of `sizes` and returns a tensor of so many rows."""
        self._compute = compute
        self._sizes = sizes
        self._capture = capture
        self._captured: dict[int, CapturedStep] = {}

    def run(self, count: int) -> Tensor:
        """Return the result of the computation for `count` rows, which the next call overwrites.

        Replays the graph of the smallest size that is at least `count`, and captures the graph before if it is not
        there yet. Raises GraphMismatch if a new graph computes something else, and RuntimeError if it cannot be
        captured.
        """
        size = min(size for size in self._sizes if size >= count)
        if size not in self._captured:
            self._captured[size] = self._verified(size, count)
        replay, result = self._captured[size]
        replay()
        return result[:count]

    def _verified(self, size: int, count: int) -> CapturedStep:
        """Capture a graph, and compare what it computes for the first `count` rows with the computation itself."""
        expected = self._compute(size)[:count].clone()
        replay, result = self._capture(lambda: self._compute(size))
        replay()
        limit = MAX_RELATIVE_DIFFERENCE * expected.abs().amax()
        if not ((result[:count] - expected).abs() <= limit).all():
            raise GraphMismatch(f"the graph of {size} rows computes something else than its computation")
        return replay, result


def report_refusal(exc: RuntimeError | GraphMismatch) -> None:
    """Log why a computation runs without graphs. Raise the exception again if the reason is a lack of memory."""
    if isinstance(exc, RuntimeError) and is_out_of_memory(exc):
        raise exc
    logs.warning("graphs_refused", reason=str(exc).partition("\n")[0], type=type(exc).__name__)


def sizes_up_to(slots: int) -> list[int]:
    """Return the batch sizes to capture, ascending: `slots` and all sizes below it that save enough.

    These are 1, 2, 4, 8, 12 and multiples of 8 up to 64, and from there on steps of an eighth of the size.
    """
    sizes = [1, 2, 4, 8, 12]
    while (following := sizes[-1] // 8 * 8 + max(8, sizes[-1] // 64 * 8)) < slots:
        sizes.append(following)
    return [*(size for size in sizes if size < slots), slots]


def cuda_capture() -> Capture:
    """Return a function that captures a step as a CUDA graph. All graphs that it captures share one memory pool.

    They also share one stream, because cuBLAS keeps a workspace of up to 32 MiB for each stream.
    """
    pool = torch.cuda.graph_pool_handle()
    stream = torch.cuda.Stream()

    def capture(step: StepFunction) -> CapturedStep:
        stream.wait_stream(torch.cuda.current_stream())
        # Libraries initialize themselves in their first call, which must not be captured.
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()
        try:
            # With "thread_local", other threads may use the device during the capture.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                result = step()
        finally:
            torch.cuda.set_stream(current)  # a capture that fails leaves the thread on its own stream
        return graph.replay, result

    return capture
