"""Test the HTTP interface against its own OpenAPI schema with schemathesis: no 5xx, and no undescribed response."""

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
PATHS = {"/asr", "/hc", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/models"}


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, download_timeout_s=2) as running_server:
        yield running_server


def test_every_answer_is_described(server: Server, web: Web, tmp_path: Path) -> None:
    schema = httpx.get(f"{server.url}/openapi.json").text
    assert EXAMPLE in schema
    schema_file = tmp_path / "openapi.json"
    schema_file.write_text(schema.replace(EXAMPLE, web.put("/audio.flac", wav(say(FOX), format="FLAC"))))
    command = [
        str(ST),
        "run",
        str(schema_file),
        f"--url={server.url}",
        "--checks=all",
        "--exclude-checks=positive_data_acceptance",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=3",
        "--generation-deterministic",
        "--request-timeout=120",
        "--no-color",
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout
    assert json.loads(schema)["paths"].keys() >= PATHS


def test_a_described_example_with_a_real_clip_is_accepted(server: Server, web: Web) -> None:
    content = httpx.get(f"{server.url}/openapi.json").json()["paths"]["/asr"]["post"]["requestBody"]["content"]
    example = content["application/json"]["example"]
    response = httpx.post(f"{server.url}/asr", json={**example, "url": web.put("/a", wav(say(FOX)))}, timeout=60)
    assert response.status_code == 200


def first_half(body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    raise httpx.WriteError("the client has gone")


def test_an_upload_that_breaks_off_leaves_no_request_in_work(server: Server, pipeline: Pipeline) -> None:
    body = wav(say(FOX), format="FLAC")
    for path in ("/asr", "/v1/audio/transcriptions"):
        for _ in range(4):
            with pytest.raises(httpx.HTTPError):
                httpx.post(server.url + path, content=first_half(body), headers={"Content-Length": str(len(body))})
    assert httpx.post(f"{server.url}/asr", content=body, timeout=60).status_code == 200
    while pipeline.stats().requests or pipeline.runner.load() != (0, 0):
        pass
