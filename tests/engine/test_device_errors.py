"""Errors of PyTorch are told apart by what they mean: no memory, no device, or a fault of ours."""

import re
from pathlib import Path

import pytest
import torch

from handler.engine import device_errors as module
from handler.engine.device_errors import device_errors
from handler.errors import AsrError, DeviceLost, OutOfMemory
from handler.whisper.checkpoint.layout import checkpoint_errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfMemory),
        (torch.AcceleratorError("CUDA error: out of memory"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), OutOfMemory),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), OutOfMemory),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), OutOfMemory),
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernels"),
            DeviceLost,
        ),
        (torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"), DeviceLost),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), DeviceLost),
    ],
)
def test_an_error_of_the_device_has_its_type(
    error: RuntimeError, expected: type[AsrError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(expected) as caught, device_errors():
        raise error
    assert type(caught.value) is expected
    assert caught.value.retryable
    assert "\n" not in caught.value.message


def test_an_error_of_a_kernel_counts_whatever_the_device_says_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_works", lambda: True)
    with pytest.raises(DeviceLost, match="misaligned address"), device_errors():
        raise torch.AcceleratorError("CUDA error: misaligned address")


@pytest.mark.parametrize("text", ["shape '[2, 3]' is invalid", "cuDNN error: CUDNN_STATUS_BAD_PARAM"])
def test_an_error_of_ours_stays_what_it_is_while_the_device_works(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_works", lambda: True)
    with pytest.raises(RuntimeError, match=re.escape(text)), device_errors():
        raise RuntimeError(text)


def test_a_lost_device_is_no_damaged_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(torch.AcceleratorError), checkpoint_errors("model.safetensors"):
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
