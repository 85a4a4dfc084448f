"""The contract between handler/jobs/worker_loop.py and the installed `runpod` package.

The SDK does not document these parts. A failure here means that a new version changed them: adapt worker_loop.py, or
keep the pin in pyproject.toml below that version.
"""

import asyncio
import inspect
import socket
import tomllib
from types import FunctionType
from typing import Any

import pytest

from handler.audio.address_guard import ALLOW_PRIVATE, GUARD
from handler.jobs.worker_loop import DrainingWorkerLoop
from handler.runpod_sdk import import_sdk
from tests.conftest import ROOT

PIN = "runpod>=1.12,<2"
MODULES = "runpod.serverless.modules"
rp_scale = import_sdk(f"{MODULES}.rp_scale")
rp_job = import_sdk(f"{MODULES}.rp_job")
rp_http = import_sdk(f"{MODULES}.rp_http")
# rp_scale holds DrainingWorkerLoop instead, once `serve` has been called in this process.
JobScaler: Any = DrainingWorkerLoop.__base__

# Methods that worker_loop.py overrides or calls, each with its parameters and whether it is a coroutine function.
METHODS = {
    "__init__": (["self", "config"], False),
    "start": (["self"], False),
    "handle_shutdown": (["self", "signum", "frame"], False),
    "kill_worker": (["self"], False),
    "is_alive": (["self"], False),
    "run": (["self"], True),
    "get_jobs": (["self", "session"], True),
    "run_jobs": (["self", "session"], True),
    "handle_job": (["self", "session", "job"], True),
    "monitor_stop_signals": (["self", "session"], True),
    "stop_job": (["self", "job_id"], True),
}
OVERRIDDEN = {"__init__", "handle_shutdown", "run", "run_jobs", "handle_job", "stop_job", "monitor_stop_signals"}
# Attributes of an instance that worker_loop.py reads or replaces, each with its type.
ATTRIBUTES: dict[str, type] = {
    "config": dict,
    "jobs_tasks": dict,
    "jobs_fetcher": FunctionType,
    "jobs_handler": FunctionType,
    "stop_signals_fetcher": FunctionType,
}
FUNCTIONS = {
    "get_job": (["session", "num_jobs"], True),
    "get_stop_signals": (["session"], True),
    "_job_stop_url": ([], False),
    "handle_job": (["session", "config", "job"], True),
}


def parameters_of(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


async def make_scaler() -> Any:
    return JobScaler({"handler": print, "concurrency_modifier": lambda current: 1})


def test_the_pin_allows_only_versions_that_this_contract_was_checked_against() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert PIN in project["dependencies"], "before changing the pin, run this file with the new version"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_the_scaler_has_the_expected_signature(name: str) -> None:
    method = getattr(JobScaler, name)
    parameters, is_coroutine = METHODS[name]
    assert parameters_of(method) == parameters
    assert inspect.iscoroutinefunction(method) == is_coroutine


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_the_job_module_has_the_expected_signature(name: str) -> None:
    function = getattr(rp_job, name)
    parameters, is_coroutine = FUNCTIONS[name]
    assert parameters_of(function) == parameters
    assert inspect.iscoroutinefunction(function) == is_coroutine


async def test_a_scaler_has_the_expected_attributes() -> None:
    scaler = await make_scaler()
    assert {name: type(getattr(scaler, name)) for name in ATTRIBUTES} == ATTRIBUTES
    assert scaler.jobs_fetcher is rp_job.get_job
    assert scaler.jobs_handler is rp_job.handle_job
    assert scaler.stop_signals_fetcher is rp_job.get_stop_signals


async def test_the_draining_loop_overrides_nothing_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DrainingWorkerLoop, "current", None)  # restored afterwards
    own_names = {name for name in vars(DrainingWorkerLoop) if not name.startswith("__")} | {"__init__"}
    scaler = await make_scaler()
    assert {name for name in own_names if hasattr(scaler, name)} == OVERRIDDEN
    own_attributes = set(vars(DrainingWorkerLoop({"handler": print}))) - set(vars(scaler))
    assert own_attributes == {"_stopping", "_drained", "_deadline_passed", "_begun", "_early_stops", "_loop"}


def test_results_have_an_address_with_the_job_s_id_and_a_query() -> None:
    assert isinstance(rp_http.JOB_DONE_URL, str)
    source = inspect.getsource(rp_http._handle_result)
    assert '.replace("$ID", job["id"])' in source
    assert "&isStream=" in source
    assert "X-Request-ID" in source


def test_the_guard_looks_names_up_checks_them_and_says_why_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = import_sdk(GUARD)
    assert parameters_of(guard.resolve_and_validate) == ["host", "port"]
    assert guard.resolve_and_validate("1.1.1.1", 80) == ["1.1.1.1"]
    with pytest.raises(guard.SSRFError) as caught:
        guard.resolve_and_validate("127.0.0.1", 80)
    assert caught.value.__cause__ is None

    def lookup(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "no")

    monkeypatch.setenv(ALLOW_PRIVATE, "true")
    assert guard.resolve_and_validate("127.0.0.1", 80) == ["127.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(guard.SSRFError) as caught:
        guard.resolve_and_validate("a.example", 80)
    assert isinstance(caught.value.__cause__, socket.gaierror)


def test_the_sdk_looks_its_scaler_up_when_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = import_sdk("runpod.serverless.worker")
    configs: list[Any] = []

    class RecordingScaler:
        def __init__(self, config: dict[str, Any]) -> None:
            self.config = config

        def start(self) -> None:
            configs.append(self.config)

    async def run_no_checks() -> None:
        pass

    monkeypatch.setattr(rp_scale, "JobScaler", RecordingScaler)
    monkeypatch.setattr(worker, "run_fitness_checks", run_no_checks)
    monkeypatch.setattr(worker.heartbeat, "start_ping", lambda mirror: None)
    config = {"handler": print}
    worker.run_worker(config)
    assert configs == [config]


async def test_the_loops_take_jobs_run_them_by_id_and_end_after_kill_worker() -> None:
    scaler = await make_scaler()
    job_ids: list[str] = []
    counts: list[int] = []

    async def fetch_jobs(session: Any, count: int) -> list[dict[str, Any]] | None:
        counts.append(count)
        if len(counts) == 1:
            return [{"id": "a", "input": {}}]
        scaler.kill_worker()
        return None

    async def fetch_stop_signals(session: Any) -> list[str]:
        await asyncio.sleep(0)
        return []

    async def handle(session: Any, config: dict[str, Any], job: dict[str, Any]) -> None:
        assert scaler.jobs_tasks == {"a": asyncio.current_task()}
        assert config is scaler.config
        job_ids.append(job["id"])

    scaler.jobs_fetcher, scaler.stop_signals_fetcher, scaler.jobs_handler = fetch_jobs, fetch_stop_signals, handle
    await asyncio.wait_for(scaler.run(), 30)
    assert not scaler.is_alive()
    assert job_ids == ["a"]
    assert counts[0] == 1
    assert scaler.jobs_tasks == {}


async def test_a_stopped_job_is_cancelled_without_a_result() -> None:
    scaler = await make_scaler()
    is_running = asyncio.Event()
    answers: list[str] = []

    async def handle(session: Any, config: dict[str, Any], job: dict[str, Any]) -> None:
        is_running.set()
        await asyncio.Event().wait()
        answers.append(job["id"])

    job = {"id": "a", "input": {}}
    scaler.jobs_handler = handle
    await scaler.jobs_queue.put(job)
    loop = asyncio.create_task(scaler.run_jobs(None))
    await asyncio.wait_for(is_running.wait(), 30)
    assert not await scaler.stop_job("unknown")
    assert await scaler.stop_job("a")
    scaler.kill_worker()
    await asyncio.wait_for(loop, 30)
    assert answers == []
    assert scaler.jobs_tasks == {}


async def test_refresh_worker_is_read_for_each_job(monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[dict[str, Any]] = []

    async def send_result(session: Any, result: dict[str, Any], job: dict[str, Any], is_stream: bool = False) -> None:
        results.append(result)

    async def handler(job: dict[str, Any]) -> dict[str, Any]:
        return {"text": job["id"]}

    monkeypatch.setattr(rp_job, "send_result", send_result)
    config: dict[str, Any] = {"handler": handler}
    await rp_job.handle_job(None, config, {"id": "a", "input": {}})
    config["refresh_worker"] = True
    await rp_job.handle_job(None, config, {"id": "b", "input": {}})
    assert [result.get("stopPod", False) for result in results] == [False, True]
