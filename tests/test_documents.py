"""The examples of the README, each as it stands there, against a server on loopback; the dashboard asks for figures that there are."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from handler.transcription.pipeline import Pipeline
from tests.conftest import ROOT
from tests.support.browser import CHROMIUM, Browser
from tests.support.serving import Server, serving
from tests.support.speech import FOX, say, wav
from tests.support.web import Web

README = (ROOT / "README.md").read_text()
SPEECH = wav(say(FOX), format="FLAC")
WORDS = "quick brown fox jumps over the lazy dog"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, cors_origins=("*",)) as running:
        yield running


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split()[1])
def test_a_python_example_prints_the_text(server: Server, tmp_path: Path, code: str) -> None:
    (tmp_path / "audio.flac").write_bytes(SPEECH)
    command = [sys.executable, "-c", code.replace("http://localhost:8000", server.url)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "NO_PROXY": "*"})
    assert done.returncode == 0, done.stderr
    assert WORDS in done.stdout


CURLS = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ curl")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("line", CURLS)
def test_a_curl_example_is_answered(server: Server, web: Web, tmp_path: Path, line: str) -> None:
    for name in ("audio.flac", "audio.mp3"):
        (tmp_path / name).write_bytes(SPEECH)
    address = web.put("/audio.mp3", SPEECH)
    command = line.replace("localhost:8000", server.url).replace("https://example.com/audio.mp3", address)
    environment = {**os.environ, "no_proxy": "*"}
    done = subprocess.run(
        ["bash", "-c", f"{command} --silent --show-error --fail"], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert WORDS in " ".join(done.stdout.split()) or '"ok"' in done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("code", blocks("javascript"))
def test_a_javascript_example_finds_the_text(server: Server, code: str) -> None:
    given = base64.b64encode(SPEECH).decode()
    file = f"const file = new File([Uint8Array.from(atob('{given}'), one => one.charCodeAt(0))], 'audio.flac');"
    with Browser() as browser:
        browser.open(server.url + "/")
        assert WORDS in browser.run(f"(async () => {{ {file} {code.replace('http://localhost:8000', server.url)} return text; }})()")


def test_the_dashboard_asks_for_figures_that_there_are(server: Server) -> None:
    with httpx.Client(base_url=server.url) as raw:
        raw.post("/asr", content=SPEECH)
        there = {line.split("{")[0].split(" ")[0] for line in raw.get("/metrics").text.splitlines() if not line.startswith("#")}
    panels = json.loads((ROOT / "docs" / "grafana.json").read_text())["panels"]
    asked = {name for panel in panels for target in panel["targets"] for name in re.findall(r"\b(?:asr|process)_\w+", target["expr"])}
    assert len(asked) > 10
    assert asked <= there
