"""A CUDA graph's twin without a GPU: operators recorded at their first run, and run again on the same tensors."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from handler.whisper.cuda_graphs import CapturedStep, StepFunction


class Recorder(TorchDispatchMode):
    """Records every operator that runs under it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Run the operators again; results overwrite those of the first run, as in a CUDA graph."""
        for func, args, kwargs, result in self.calls:
            new_result = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(new_result), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def capture(step: StepFunction) -> CapturedStep:
    """Capture a step, as the function that `cuda_capture` returns."""
    with torch.inference_mode(), Recorder() as recorder:
        result = step()

    def replay() -> None:
        with torch.inference_mode():
            recorder.replay()

    return replay, result
