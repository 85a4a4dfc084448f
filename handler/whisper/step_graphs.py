"""The decoding step as CUDA graphs: whole steps where all tokens are the likeliest ones, and logits for the others."""

from functools import partial

from torch import Tensor

from handler.whisper.attention import SharedAudio
from handler.whisper.cuda_graphs import (
    Capture,
    CudaGraphs,
    GraphMismatch,
    GraphsOnDemand,
    report_refusal,
    sizes_up_to,
)
from handler.whisper.step import Step

SHARED_WIDTH = 5  # sequences that may attend to the same audio in a graph; the usual number of beams and of samples


class StepGraphs:
    """Graphs of a step. Those of whole steps are captured at once, and those of logits when they are first needed.

    With graphs of logits, a sequence whose tokens are sampled, or that belongs to a beam search, does not keep all
    others from a graph: only the choice of the tokens runs without one.
    """

    def __init__(self, step: Step, context: int, slots: int, capture: Capture) -> None:
        """Capture the whole step for up to `slots` sequences, which attend to `context` text positions.

        Raises GraphMismatch if a graph computes something else than its step, and RuntimeError if a graph cannot be
        captured.
        """
        self._step = step
        sizes = sizes_up_to(slots)
        self._advance = CudaGraphs(lambda count: step.advance(count, context), sizes, capture)
        self._advance.verify(step.clear)
        self._logits: GraphsOnDemand | None = GraphsOnDemand(lambda count: step.logits(count, context), sizes, capture)
        self._shared_logits = GraphsOnDemand(partial(self._compute_shared, context), sizes, capture)

    def _compute_shared(self, context: int, count: int) -> Tensor:
        # Which sequences share an audio may differ from one replay to the next: there is room for any arrangement.
        return self._step.logits(count, context, self._step.shared_audio(count, count, SHARED_WIDTH))

    def advance(self, count: int) -> Tensor:
        """Run `Step.advance` for the first `count` slots, and return its result, which the next call overwrites."""
        return self._advance.run(count)

    def logits(self, count: int, audio: SharedAudio | None) -> Tensor | None:
        """Return the result of `Step.logits`, or None if no graph can compute it."""
        if self._logits is None or (audio is not None and audio.width > SHARED_WIDTH):
            return None
        try:
            return (self._logits if audio is None else self._shared_logits).run(count)
        except (RuntimeError, GraphMismatch) as exc:
            report_refusal(exc)
            self._logits = None
            return None


def capture_graphs(step: Step, context: int, slots: int, capture: Capture) -> StepGraphs | None:
    """Return the graphs of a step. See StepGraphs.

    A step that cannot be captured, or whose graphs do not compute what it computes itself, has none, and a warning says
    so. Raises OutOfMemory.
    """
    try:
        return StepGraphs(step, context, slots, capture)
    except (RuntimeError, GraphMismatch) as exc:
        report_refusal(exc)
        step.clear()
        return None
