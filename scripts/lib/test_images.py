"""The files that build and run images: locks, the bake file, compose, and the parts of an image."""

import importlib.machinery
import importlib.util
import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import hcl2
import pytest
import yaml

from handler.settings import Settings
from scripts.lib.add_hash import add_hash
from tests.conftest import ROOT

BAKE: dict[str, Any] = hcl2.loads((ROOT / "docker-bake.hcl").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = sorted(path for path in (ROOT / "requirements").glob("*.txt") if path.stem != "installer")
VARIABLES = {field.metadata["name"] for field in fields(Settings)}
STAGES = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))


def versions_in(text: str) -> dict[str, str]:
    """Return the version of each package in a file of constraints or a lock."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-").replace(".", "-"): version for name, version in found}


CONSTRAINTS = versions_in((ROOT / "constraints.txt").read_text())
CUDA_CONSTRAINTS = versions_in((ROOT / "constraints-cuda.txt").read_text())
OPENVINO_CONSTRAINTS = versions_in((ROOT / "constraints-openvino.txt").read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_has_the_tested_version_and_a_hash_of_every_package(lock: Path) -> None:
    text = lock.read_text()
    locked = versions_in(text)
    pinned = CONSTRAINTS | CUDA_CONSTRAINTS | (OPENVINO_CONSTRAINTS if lock.stem == "openvino" else {})
    other_cuda = {name for name in locked if name.startswith("nvidia-") and name not in pinned}  # of another build
    versions = {name: version.partition("+")[0] for name, version in locked.items() if name not in other_cuda}
    assert {name: version for name, version in versions.items() if pinned.get(name) != version} == {}
    names = {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in PROJECT["dependencies"]}
    assert names <= locked.keys()
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_locks_differ_by_cuda_alone_and_have_no_compiler() -> None:
    cpu, cuda = (versions_in((ROOT / f"requirements/{name}.txt").read_text()) for name in ("cpu", "cu130"))
    assert cuda.keys() - cpu.keys() == CUDA_CONSTRAINTS.keys() - {"triton"} | {"torchaudio"}  # for CUDA alone
    assert cpu.keys() <= cuda.keys()


def test_the_image_with_openvino_differs_by_what_optimum_needs_alone() -> None:
    cpu, openvino = (versions_in((ROOT / f"requirements/{name}.txt").read_text()) for name in ("cpu", "openvino"))
    common = cpu.keys() & openvino.keys() - OPENVINO_CONSTRAINTS.keys()
    assert {name for name in common if cpu[name] != openvino[name]} == set()
    assert OPENVINO_CONSTRAINTS.keys() - openvino.keys() == {"torchvision"}  # built for another PyTorch


def test_no_build_of_pytorch_is_held_that_its_cuda_packages_contradict() -> None:
    assert "triton" not in CONSTRAINTS
    assert CONSTRAINTS["torch"] == "2.13.0", "its packages for CUDA are those of constraints-cuda.txt"
    assert CUDA_CONSTRAINTS["triton"] == "3.7.1"


def test_a_hash_is_added_beside_the_others_and_only_once() -> None:
    lock = "torch==2.13.0 \\\n    --hash=sha256:aa\n    # via asr\ntqdm==4 \\\n    --hash=sha256:bb\n"
    added = add_hash(lock, "torch", "cc")
    assert added == lock.replace("    --hash=sha256:aa", "    --hash=sha256:cc \\\n    --hash=sha256:aa")
    assert add_hash(added, "torch", "cc") == added
    with pytest.raises(ValueError, match="numpy"):
        add_hash(lock, "numpy", "cc")


def targets() -> dict[str, dict[str, Any]]:
    return {name.strip('"'): target for entry in BAKE["target"] for name, target in entry.items() if name[:2] != "__"}


def test_the_bake_file_builds_stages_of_the_dockerfile_with_arguments_that_it_has() -> None:
    arguments = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    for name, target in targets().items():
        if name != "common":
            assert target["target"].strip('"') in STAGES
        assert set(target.get("args", {})) - {"__is_block__"} <= arguments


def test_the_bake_file_has_every_image_of_asr_api_and_newer_models() -> None:
    text = json.dumps(targets()["baked"])
    models = ("whisper-large-v3", "whisper-large-v3-turbo", "distil-large-v2", "distil-large-v3.5")
    assert all(f"/{model}" in text for model in models)
    assert {name.strip('"') for group in BAKE["group"] for name in group} == {"default", "all"}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_of_compose_runs_an_entry_point_with_known_settings(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["profiles"] == [name]
    assert service["command"][:2] == ["python", "-m"]
    assert service["command"][2] in ("handler", "local_server")
    assert service["build"]["target"] in STAGES
    assert set(service["environment"]) <= VARIABLES
    has_gpu = name.endswith("-gpu")
    assert service["environment"]["DEVICE"] == ("cuda" if has_gpu else "cpu")
    assert ("deploy" in service) == has_gpu
    assert ("cpu" in service["build"]["args"]["TORCH"]) != has_gpu


def test_compose_has_both_ways_in_with_and_without_a_gpu() -> None:
    assert set(COMPOSE["services"]) == {"http", "http-gpu", "worker", "worker-gpu"}


def program(path: Path) -> ModuleType:
    """Load a program that has no suffix as a module."""
    loader = importlib.machinery.SourceFileLoader(path.name, str(path))
    spec = importlib.util.spec_from_loader(path.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_an_environment_is_parted_into_layers_without_a_loss(tmp_path: Path) -> None:
    packages = tmp_path / "opt/asr/lib/python3.11/site-packages"
    layer_of = {
        packages / "nvidia/cudnn/lib/libcudnn.so.9": "cudnn",
        packages / "nvidia/cu13/lib/libcublasLt.so.13": "products",
        packages / "nvidia/cu13/lib/libcufft.so.12": "cuda",
        packages / "torch/lib/libtorch_cuda.so": "torch",
        packages / "torchgen/model.py": "torch",
        packages / "numpy/__init__.py": "rest",
        tmp_path / "opt/asr/bin/python": "rest",
    }
    for path in layer_of:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (tmp_path / "opt/asr/lib64").symlink_to("lib")
    part = program(ROOT / "requirements/part")
    part.main(tmp_path / "opt/asr", tmp_path / "parts")
    for path, layer in layer_of.items():
        assert (tmp_path / "parts" / layer / path.relative_to("/")).read_text() == path.name
    assert (tmp_path / "parts/rest" / (tmp_path / "opt/asr/lib64").relative_to("/")).is_symlink()
    assert re.findall(r"/parts/(\w+) /", DOCKERFILE) == [*part.LAYERS, "rest"]
