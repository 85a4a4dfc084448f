"""scripts/gpu_check on a processor: its verdict, its table, its file, and the document that is made of such files."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from handler.errors import OutOfMemory
from scripts.lib import gpu_check, gpu_report, gpu_shapes, gpu_tests, gpu_times
from scripts.lib.gpu_report import table
from scripts.lib.gpu_times import TABLES
from scripts.lib.torch_build import build_for
from tests.conftest import ROOT, settings

FAILED: dict[str, Any] = {
    "model": "a/b",
    "device": "cuda",
    "version": "1",
    "verdict": "does not work",
    "seconds": 1.0,
    "facts": {"driver": "535.1"},
    "checks": [{"name": "a kernel runs", "passed": False, "detail": "old | driver", "advice": "take a new one"}],
    "times": {"step": [{"rows": 1, "eager_ms": 2.5}, {"rows": 2, "graph_ms": 1.5}]},
    "skipped": ["memory"],
}


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "scripts.lib.gpu_check", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_a_processor_that_works_gets_a_verdict_a_table_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gpu_check.json"
    done = run("--device", "cpu", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert report["verdict"] == "works"
    assert set(TABLES) < set(report["times"])
    assert {check["name"]: check["passed"] for check in report["checks"]}["words are understood"] is True
    assert all(row["times_real_time"] > 0 for row in report["times"]["throughput"])
    assert table(report) in done.stdout
    monkeypatch.setattr(gpu_report, "DOCUMENT", tmp_path / "gpu.md")
    gpu_report.main([str(file)])
    assert table(report) in (tmp_path / "gpu.md").read_text()


def test_a_start_that_fails_is_the_verdict_with_what_to_do(tmp_path: Path) -> None:
    done = run("--device", "cpu", "--model", str(tmp_path / "none"), "--json", str(tmp_path / "a.json"))
    assert done.returncode == 1
    assert "does not work" in done.stdout
    assert "| the worker starts | FAIL |" in done.stdout
    assert "To do: " in done.stdout


def test_a_table_that_cannot_be_measured_is_a_failure_and_the_rest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_out(_: object) -> object:
        raise MemoryError("no room")

    class Nothing:
        def __init__(self) -> None:
            self.start_s: dict[str, float] = {}

        def facts(self) -> dict[str, Any]:
            return {}

        def close(self) -> None:
            pass

    monkeypatch.setattr("handler.logs.configure", lambda _: None)  # of this process, which runs other tests
    monkeypatch.setattr(gpu_check, "load", lambda _: Nothing())
    monkeypatch.setattr(gpu_tests, "CHECKS", {})
    monkeypatch.setattr(gpu_times, "TABLES", {"step": run_out, "memory": lambda _: {"allocated_gib": 1.5}})
    file = tmp_path / "a.json"
    assert gpu_check.main(["--device", "cpu", "--json", str(file)]) == 1
    report = json.loads(file.read_text())
    assert (report["verdict"], report["times"]["step"]) == ("does not work", {"failed": "MemoryError: no room"})
    assert "| 1.5 |" in capsys.readouterr().out


def test_a_failed_check_and_missing_figures_fit_into_tables() -> None:
    lines = table(FAILED).splitlines()
    assert "| a kernel runs | FAIL | old \\| driver. To do: take a new one |" in lines
    assert lines[lines.index("| rows | eager ms | graph ms |") + 2 :][:2] == ["| 1 | 2.5 |  |", "| 2 |  | 1.5 |"]
    assert lines[-1] == "No time was left for: memory."


def test_the_document_says_so_if_nobody_has_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "DOCUMENT", tmp_path / "gpu.md")
    gpu_report.main([])
    assert "No machine has been measured yet" in (tmp_path / "gpu.md").read_text()


@pytest.mark.parametrize(
    ("gpu", "driver", "build"),
    [
        (False, "", "cpu"),
        (False, "580.65.06", "cpu"),
        (True, "570.86.15", "cu126"),
        (True, "580.65.06", "cu130"),
        (True, "", "cu130"),
    ],
)
def test_the_driver_decides_which_build_is_examined(gpu: bool, driver: str, build: str) -> None:
    assert build_for(gpu, driver) == build


def test_a_machine_without_a_gpu_does_not_work_if_none_but_a_gpu_was_asked_for(tmp_path: Path) -> None:
    done = run("--device", f"cuda:{torch.cuda.device_count()}", "--json", str(tmp_path / "a.json"))
    assert done.returncode == 1
    assert "| a kernel runs | FAIL |" in done.stdout


def test_a_worker_that_finds_no_memory_beside_the_first_fails_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_no_memory(_: object) -> object:
        raise OutOfMemory("the device is full")

    subject = SimpleNamespace(settings=settings(), is_gpu=False)
    monkeypatch.setattr(gpu_tests, "load", find_no_memory)
    outcome = gpu_tests.run("number formats", gpu_tests.CHECKS["number formats"], subject)  # type: ignore[arg-type]
    assert outcome.passed is None
    assert "no memory" in outcome.detail


def test_shapes_of_models_are_measured_without_their_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shapes.json"
    options = ["--device", "cpu", "--shapes", "tiny", "--rows", "1", "--waves", "1", "--no-peer", "--json", str(file)]
    assert gpu_shapes.main(options) == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert row["shape"] == "tiny"
    assert min(row[name] for name in ("step_ms", "encoder_ms", "times_real_time")) > 0
    assert row["transformers"] is None
    assert "| tiny | 1 |" in capsys.readouterr().out
