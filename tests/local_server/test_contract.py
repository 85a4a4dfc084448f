"""The HTTP interface against its own description, by schemathesis: no 5xx, no answer that its schema does not describe."""

import json
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from handler.transcription.pipeline import Pipeline
from tests.support.serving import Server, serving
from tests.support.speech import FOX, say, wav
from tests.support.web import Web

ST = Path(sysconfig.get_path("scripts")) / "st"
EXAMPLE = "https://example.com/audio.mp3"


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, download_timeout_s=2) as running:
        yield running


def test_every_answer_is_described(server: Server, web: Web, tmp_path: Path) -> None:
    schema = httpx.get(f"{server.url}/openapi.json").text
    assert EXAMPLE in schema
    described = tmp_path / "openapi.json"
    described.write_text(schema.replace(EXAMPLE, web.put("/audio.flac", wav(say(FOX), format="FLAC"))))
    command = [
        str(ST), "run", str(described), "--url", server.url, "--checks", "all", "--exclude-checks", "positive_data_acceptance",
        "--phases", "examples,coverage,fuzzing", "--max-examples", "5", "--generation-deterministic", "--request-timeout", "120",
        "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
    assert json.loads(schema)["paths"].keys() >= {"/asr", "/hc", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/models"}


def test_a_described_example_with_a_real_clip_is_accepted(server: Server, web: Web) -> None:
    content = httpx.get(f"{server.url}/openapi.json").json()["paths"]["/asr"]["post"]["requestBody"]["content"]
    example = content["application/json"]["example"]
    answer = httpx.post(f"{server.url}/asr", json={**example, "url": web.put("/a", wav(say(FOX)))}, timeout=60)
    assert answer.status_code == 200


def half(body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    raise httpx.WriteError("the client has gone")


def test_an_upload_that_is_broken_off_leaves_nothing_behind(server: Server, pipeline: Pipeline) -> None:
    body = wav(say(FOX), format="FLAC")
    for path in ("/asr", "/v1/audio/transcriptions"):
        for _ in range(4):
            with pytest.raises(httpx.HTTPError):
                httpx.post(server.url + path, content=half(body), headers={"Content-Length": str(len(body))})
    assert httpx.post(f"{server.url}/asr", content=body, timeout=60).status_code == 200
    while pipeline.load().requests or pipeline.runner.load() != (0, 0):
        pass
