"""What the platforms read: RunPod's Hub files name what there is, the image's ingredients exist, its health check tells the truth."""

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
def test_every_variable_that_the_hub_offers_is_one_of_ours_and_its_values_are_taken(env: dict[str, Any]) -> None:
    assert env["key"] in {field.metadata["name"] for field in fields(Settings)}
    asked = env.get("input", {"type": "string", "default": env.get("value")})
    if asked["type"] == "boolean":
        values = [asked["trueValue"], asked["falseValue"]]
    else:
        values = [option["value"] for option in asked.get("options", [])] or [str(asked["default"])]
    for value in values:
        Settings.from_env({env["key"]: value})


@pytest.mark.parametrize("preset", HUB["config"]["presets"], ids=lambda preset: preset["name"])
def test_every_preset_sets_variables_that_are_offered(preset: dict[str, Any]) -> None:
    offered = {env["key"]: env["input"] for env in ENV if "input" in env}
    given = {}
    for key, value in preset["defaults"].items():
        given[key] = (offered[key]["trueValue"] if value else offered[key]["falseValue"]) if isinstance(value, bool) else value
    Settings.from_env(given)


@pytest.mark.parametrize("test", TESTS["tests"], ids=lambda test: test["name"])
def test_what_the_hub_sends_is_a_job(test: dict[str, Any]) -> None:
    job = parse_job(test, Settings())
    (source,) = job.sources
    assert source.base64 == json.loads((ROOT / "test_input.json").read_text())["input"]["audio_base64"]
    assert isinstance(job.options, Options)
    assert 0 < test["timeout"] <= 600_000


def test_the_image_copies_only_what_its_context_has() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == let_in
    assert all((ROOT / name).exists() for name in names)


@pytest.mark.parametrize(("status", "well"), [(200, 0), (204, 0), (503, 1)])
def test_a_server_is_as_well_as_its_hc_says(status: int, well: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/hc" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    (tmp_path / "cmdline").write_bytes(b"python\0-m\0local_server\0")
    monkeypatch.setattr(health, "FIRST_PROCESS", tmp_path / "cmdline")
    server = Loopback(Handler)
    server.start()
    monkeypatch.setenv("PORT", server.url.rpartition(":")[2])
    try:
        assert health.main() == well
    finally:
        server.stop()
    assert health.main() == 1
    (tmp_path / "cmdline").write_bytes(b"python\0-m\0handler\0")
    assert health.main() == 0
