"""Tell lack of memory and the loss of the device from other errors of PyTorch. Knows no model.

PyTorch has types for both, but libraries report either by the text of a RuntimeError alone. Sources: PyTorch,
c10/util/Exception.h, c10/cuda/CUDAException.cpp, aten/src/ATen/cuda/CUDABlas.cpp.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from handler.errors import DeviceLost, OutOfMemory

_OUT_OF_MEMORY = (
    *("CUDA error: out of memory", "cudaErrorMemoryAllocation"),  # kernels, graphs and pinned memory
    *("CUDA driver error: out of memory", "CUFFT_ALLOC_FAILED"),
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # what a full card says to the first product
    *(
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ),
)
_DEVICE = ("CUDA error", "CUDA driver error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuFFT error")


@contextmanager
def device_errors() -> Iterator[None]:
    """Raise OutOfMemory if the device runs out of memory in the block, and DeviceLost if it fails.

    A failure that only a library reports counts if the device is then found not to work any more.
    """
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise _out_of_memory() from exc
    except RuntimeError as exc:
        reason = str(exc).partition("\n")[0]
        if is_out_of_memory(exc):
            raise _out_of_memory() from exc
        if isinstance(exc, torch.AcceleratorError) or (_names_device(exc) and not _works()):
            raise DeviceLost(f"the device is lost: {reason}") from exc
        raise


def is_out_of_memory(exc: RuntimeError) -> bool:
    """Return whether an error of PyTorch or its libraries says that the device has no memory left."""
    return isinstance(exc, torch.OutOfMemoryError) or any(sign in str(exc) for sign in _OUT_OF_MEMORY)


def _out_of_memory() -> OutOfMemory:
    return OutOfMemory("the device has no memory for so much; expected a smaller BATCH_SIZE or model")


def _names_device(exc: RuntimeError) -> bool:
    """Return whether an error is one that the device's libraries report."""
    return any(sign in str(exc) for sign in _DEVICE)


def _works() -> bool:
    """Return whether the current GPU of this thread still does what it is told."""
    try:
        torch.cuda.synchronize()
    except (RuntimeError, AssertionError):  # the latter where PyTorch has no CUDA
        return False
    return True
