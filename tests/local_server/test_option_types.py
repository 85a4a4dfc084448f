"""Every option with every type of value, by every way in: an answer or a refusal, and never a fault of the program."""

import dataclasses
import json
import math
from collections.abc import Iterator

import httpx
import pytest

from handler.cli import _parser
from handler.errors import InvalidRequest
from handler.jobs.job_handler import JobHandler
from handler.schema.options import Options
from handler.transcription.pipeline import Pipeline
from tests.support.serving import serving
from tests.support.speech import silence, wav
from tests.support.web import Web

NAMES = [option.name for option in dataclasses.fields(Options)]
QUIET = wav(silence(0.2))
DIGITS = "5" * 5000
TEXTS = (
    *("", " ", "null", "true", "0", "1", "-1", "7", "0.5", "1e400", "nan", "inf", "-inf", "--5", "1,--2", "\u0663"),
    *("x", "en-US", "a\0b", "é" * 70, "[1]", '["1"]', '{"a": 1}', "[" * 2000, DIGITS, f"1,{DIGITS}"),
)  # of a query, a form or a flag
JSON_TEXTS = (
    *("null", "true", "0", "1", "-1", "1" + "0" * 400, DIGITS, "0.5", "1e999", "NaN", "-Infinity", '""', '"x"', '"1"'),
    *('"\\ud800"', '"\\u0000"', "[]", "[[]]", "[1]", '["1"]', f"[{10**400}]", "[null]", "{}", '{"a": {}}'),
    *("[" * 500 + "]" * 500, "[" * 100_000, json.dumps(DIGITS)),
)


def nested(depth: int) -> object:
    value: object = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: tuple[object, ...] = (
    *(None, True, 0, 1, -1, 10**400, 10**5000, 0.5, math.inf, -math.inf, math.nan, "", "x", DIGITS, "--5", "\ud800"),
    *([], [[]], [1], ["1"], [10**5000], [None], {}, {"a": 10**5000}, nested(10_000), {"a": nested(10_000)}, b"1", (1,)),
)  # of a job


@pytest.fixture(scope="module")
def client(pipeline: Pipeline) -> Iterator[httpx.Client]:
    with serving(pipeline) as server, httpx.Client(base_url=server.url, timeout=120) as http_client:
        yield http_client


def assert_answered(response: httpx.Response, case: object) -> None:
    code = "ok" if response.status_code == 200 else response.json()["error"]["code"]
    assert (response.status_code, code) in ((200, "ok"), (400, "invalid_request")), case


@pytest.mark.parametrize("name", NAMES)
def test_an_option_in_json_is_taken_or_refused(client: httpx.Client, web: Web, name: str) -> None:
    address = json.dumps(web.put("/quiet", QUIET))
    for value in JSON_TEXTS:
        body = f'{{"url": {address}, "{name}": {value}}}'
        response = client.post("/asr", content=body, headers={"Content-Type": "application/json"})
        assert_answered(response, value[:60])


@pytest.mark.parametrize("name", NAMES)
def test_an_option_in_a_query_or_a_form_is_taken_or_refused(client: httpx.Client, name: str) -> None:
    for text in TEXTS:
        for field in (name, f"{name}[]", f"{name}[0]"):
            assert_answered(client.post("/asr", params={field: text}, content=QUIET), (field, text[:60]))
        files = {"file": ("a.wav", QUIET)}
        assert_answered(client.post("/asr", data={name: text}, files=files), text[:60])
        fields = {"model": "whisper-1", name: text}
        assert_answered(client.post("/v1/audio/transcriptions", data=fields, files=files), text[:60])


@pytest.mark.parametrize("name", NAMES)
async def test_an_option_of_a_job_is_taken_or_refused(pipeline: Pipeline, web: Web, name: str) -> None:
    async def discard_update(job_id: str, content: object) -> None:
        pass

    job_handler = JobHandler(pipeline, pipeline.settings, discard_update, lambda: None)
    address = web.put("/quiet", QUIET)
    for value in VALUES:
        answer = await job_handler.answer({"id": "1", "input": {"url": address, name: value}})
        assert answer.get("error", "invalid_request: ").startswith("invalid_request: "), type(value)


def flag_refusal(arguments: list[str]) -> str | None:
    """Return why the command line refuses arguments, as bad usage or by the options' own check, or None."""
    try:
        namespace = _parser().parse_args(["transcribe", "a.wav", *arguments])
        Options.parse({option: getattr(namespace, option) for option in NAMES})
    except SystemExit as end:
        return f"exit code {end.code}"
    except InvalidRequest as refusal:
        return refusal.message
    return None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("capsys")
def test_a_flag_is_taken_or_refused_as_bad_usage(name: str) -> None:
    for text in (*TEXTS, "\udcff"):
        refusal = flag_refusal([f"--{name.replace('_', '-')}={text}"])
        assert refusal is None or refusal == "exit code 2" or " must " in refusal
    assert flag_refusal([f"--{name}={'[' * 2000}"]) is not None or name in ("prompt", "hotwords")
