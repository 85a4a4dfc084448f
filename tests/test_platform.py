"""The files that platforms read: RunPod's Hub files match the code, the image's files exist, its health check works."""

import json
import re
from dataclasses import fields
from typing import Any

import pytest

from handler import health
from handler.jobs.job import parse_job
from handler.schema.options import Options
from handler.settings import Settings
from tests.conftest import ROOT
from tests.support.loopback import Loopback, QuietHandler

HUB = json.loads((ROOT / ".runpod/hub.json").read_text())
TESTS = json.loads((ROOT / ".runpod/tests.json").read_text())
ENV: list[dict[str, Any]] = HUB["config"]["env"]


def test_the_hub_file_has_what_the_hub_requires() -> None:
    assert {"title", "description", "type", "category", "config"} <= HUB.keys()
    assert (HUB["type"], HUB["category"]) == ("serverless", "audio")
    assert {"runsOn", "containerDiskInGb", "gpuCount", "gpuIds"} <= HUB["config"].keys()


@pytest.mark.parametrize("env", ENV, ids=lambda env: env["key"])
def test_every_variable_that_the_hub_offers_exists_and_accepts_the_offered_values(env: dict[str, Any]) -> None:
    assert env["key"] in {field.metadata["name"] for field in fields(Settings)}
    form = env.get("input", {"type": "string", "default": env.get("value")})
    if form["type"] == "boolean":
        values = [form["trueValue"], form["falseValue"]]
    else:
        values = [option["value"] for option in form.get("options", [])] or [str(form["default"])]
    for value in values:
        Settings.from_env({env["key"]: value})


@pytest.mark.parametrize("preset", HUB["config"]["presets"], ids=lambda preset: preset["name"])
def test_every_preset_sets_variables_that_are_offered(preset: dict[str, Any]) -> None:
    forms = {env["key"]: env["input"] for env in ENV if "input" in env}
    variables = {}
    for key, value in preset["defaults"].items():
        form = forms[key]
        if isinstance(value, bool):
            value = form["trueValue"] if value else form["falseValue"]
        variables[key] = value
    Settings.from_env(variables)


@pytest.mark.parametrize("test", TESTS["tests"], ids=lambda test: test["name"])
def test_the_hub_s_tests_are_valid_jobs(test: dict[str, Any]) -> None:
    job = parse_job(test, Settings())
    (source,) = job.sources
    assert source.base64 == json.loads((ROOT / "test_input.json").read_text())["input"]["audio_base64"]
    assert isinstance(job.options, Options)
    assert 0 < test["timeout"] <= 600_000


def test_the_image_copies_only_what_its_context_has() -> None:
    context = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copy_sources = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = set(" ".join(copy_sources).split())
    assert names == context
    assert all((ROOT / name).exists() for name in names)


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (204, 0), (503, 1)])
def test_a_server_is_healthy_if_its_hc_says_so(
    status: int, exit_code: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            answer = status if self.path == "/hc" else 404
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

    (tmp_path / "cmdline").write_bytes(b"python\0-m\0local_server\0")
    monkeypatch.setattr(health, "FIRST_PROCESS", tmp_path / "cmdline")
    server = Loopback(Handler)
    server.start()
    monkeypatch.setenv("PORT", server.url.rpartition(":")[2])
    try:
        assert health.main() == exit_code
    finally:
        server.stop()
    assert health.main() == 1
    (tmp_path / "cmdline").write_bytes(b"python\0-m\0handler\0")
    assert health.main() == 0
