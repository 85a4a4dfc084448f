"""The choice of the device: a GPU that is there and cannot be used is an error, never the processor in silence."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from handler.engine import device as device_module
from handler.engine.device import (
    choose_device,
    choose_dtype,
    choose_short_context,
    compute_exactly,
    on_device,
    try_device,
)
from handler.engine.nvidia import driver_version, has_gpu
from handler.settings import SettingsError

CUDA = torch.device("cuda", 1)  # no device of this machine: nothing is computed on it
DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U16)\nGCC\n"


def machine(root: Path, **files: str) -> Path:
    """Write files of a machine's file system, in whose names `__` stands for `/`."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize("sign", ["dev__nvidia0", "dev__nvidia3", "usr__lib__wsl__lib__libcuda.so.1"])
def test_a_gpu_that_is_shown_to_the_process_is_found_without_pytorch(tmp_path: Path, sign: str) -> None:
    machine(tmp_path, proc__driver__nvidia__version=DRIVER)  # the host's, in a container without a GPU
    machine(tmp_path, dev__nvidiactl="", dev__dxg="")
    assert not has_gpu(tmp_path, {})
    machine(tmp_path, **{sign: ""})
    assert has_gpu(tmp_path, {})
    assert not has_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": ""})
    assert not has_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": "-1"})


def test_the_driver_is_known_by_its_version(tmp_path: Path) -> None:
    assert driver_version(tmp_path) == ""
    assert driver_version(machine(tmp_path / "a", proc__driver__nvidia__version=DRIVER)) == "570.86.15"
    proprietary = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
    assert driver_version(machine(tmp_path / "b", proc__driver__nvidia__version=proprietary)) == "535.183.01"
    assert driver_version(machine(tmp_path / "c", proc__driver__nvidia__version="")) == ""


@pytest.fixture
def unusable_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this machine has a GPU whose driver is too old for PyTorch."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(device_module, "has_gpu", lambda: True)
    monkeypatch.setattr(device_module, "driver_version", lambda: "550.54.14")


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
@pytest.mark.usefixtures("unusable_gpu")
def test_a_gpu_that_pytorch_cannot_use_is_an_error_that_says_what_to_do(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        choose_device(name)
    for part in ("DEVICE", "550.54.14", torch.__version__, "CUDA 13.0", "newer driver"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("unusable_gpu")
def test_the_processor_can_still_be_wanted() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("unusable_gpu")
def test_a_pytorch_without_cuda_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    for name in ("auto", "cuda"):
        with pytest.raises(SettingsError, match="built without CUDA"):
            choose_device(name)


def test_a_machine_without_a_gpu_computes_on_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device_module, "has_gpu", lambda: False)
    assert choose_device("auto") == torch.device("cpu")


def test_a_gpu_has_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device(name).index for name in ("auto", "cuda", "cuda:1")] == [0, 0, 1]
    with pytest.raises(SettingsError, match="2 CUDA devices"):
        choose_device("cuda:2")


def test_a_gpu_without_kernels_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch, "zeros", refuse)
    monkeypatch.setattr(device_module, "on_device", lambda device: on_device(torch.device("cpu")))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GeForce GTX 1080")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    with pytest.raises(SettingsError) as caught:
        try_device(CUDA)
    for part in ("no kernel image", "GeForce GTX 1080 is sm_61", "sm_75, sm_80"):
        assert part in str(caught.value)


def test_half_precision_is_summed_in_float32_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    products = SimpleNamespace(allow_fp16_reduced_precision_reduction=True)
    monkeypatch.setattr(torch.backends.cuda, "matmul", products)
    compute_exactly(torch.device("cpu"))
    assert products.allow_fp16_reduced_precision_reduction
    compute_exactly(CUDA)
    assert not products.allow_fp16_reduced_precision_reduction


def test_a_processor_works() -> None:
    try_device(torch.device("cpu"))


def test_a_gpu_computes_in_float16_unless_told_otherwise() -> None:
    assert choose_dtype("auto", CUDA) == torch.float16
    assert choose_dtype("bfloat16", CUDA) == torch.bfloat16


def test_a_short_context_is_refused_where_steps_are_captured() -> None:
    assert not choose_short_context("auto", CUDA)
    assert not choose_short_context("full", CUDA)
    with pytest.raises(SettingsError, match="AUDIO_CONTEXT"):
        choose_short_context("short", CUDA)
    assert choose_short_context("auto", torch.device("cpu"))
    assert not choose_short_context("full", torch.device("cpu"))
