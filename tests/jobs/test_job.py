"""Test the parser of jobs: every field's forms, its default, and the field that a refusal names."""

from typing import Any

import pytest

from handler.errors import InvalidRequest
from handler.jobs.faster_whisper_compat import CompatFormat
from handler.jobs.job import MAX_FILES, Job, parse_job
from handler.jobs.object_store import Bucket, UploadTarget
from handler.schema.options import Options
from tests.conftest import settings

URL = "http://a/b.wav"
CONFIG = {
    "endpointUrl": "https://s3.example.com",
    "bucketName": "calls",
    "accessId": "an id",
    "accessSecret": "hunter2",
}


def parse(payload: Any, **event_fields: Any) -> Job:
    return parse_job({"id": "job-1", "input": payload, **event_fields}, settings(execution_timeout_s=77.0))


def refusal(payload: Any, **event_fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(payload, **event_fields)
    return caught.value


def test_a_job_that_has_only_a_file_has_the_defaults_of_everything_else() -> None:
    job = parse({"url": URL})
    (source,) = job.sources
    assert (source.url, source.base64, source.file, source.growing) == (URL, None, None, None)
    assert job.options == Options()
    assert (job.id, job.is_list, job.limit_s, job.always_upload) == ("job-1", False, 77.0, False)
    assert (job.compat_format, job.upload_target, job.bucket) == (None, None, None)


def test_null_counts_as_not_given() -> None:
    names = ("urls", "audio_base64", "upload", "upload_url", "audio", "translate", *Options.json_schema())
    job = parse({"url": URL, **dict.fromkeys(names)}, policy=None, s3Config=None)
    assert job == parse({"url": URL})
    assert parse({"url": URL}, policy={"executionTimeout": None, "ttl": 5}) == job


@pytest.mark.parametrize(
    ("payload", "urls", "texts", "is_list"),
    [
        ({"url": URL}, [URL], [None], False),
        ({"audio": URL}, [URL], [None], False),
        ({"audio_base64": "UklGRg=="}, [None], ["UklGRg=="], False),
        ({"urls": [URL]}, [URL], [None], True),
        ({"urls": [URL, "s3://c/d", URL]}, [URL, "s3://c/d", URL], [None] * 3, True),
        ({"urls": [URL] * MAX_FILES}, [URL] * MAX_FILES, [None] * MAX_FILES, True),
    ],
)
def test_files_keep_their_order_and_a_list_of_one_is_a_list(
    payload: dict[str, Any], urls: list[str | None], texts: list[str | None], is_list: bool
) -> None:
    job = parse(payload)
    assert [source.url for source in job.sources] == urls
    assert [source.base64 for source in job.sources] == texts
    assert job.is_list is is_list


@pytest.mark.parametrize(
    ("payload", "field", "expected"),
    [
        (None, None, "input must be an object"),
        (URL, None, "input must be an object"),
        ([{"url": URL}], None, "input must be an object"),
        ({}, None, "must have one of url, urls and audio_base64"),
        ({"language": "en"}, None, "must have one of url, urls and audio_base64"),
        ({"url": URL, "audio_base64": "UklGRg=="}, None, "must have one of"),
        ({"audio": URL, "urls": [URL]}, None, "must have one of"),
        ({"url": 5}, "url", "a string"),
        ({"url": [URL]}, "url", "a string"),
        ({"url": "http://a/\ud800"}, "url", "whole characters"),
        ({"audio_base64": b"UklGRg=="}, "audio_base64", "a string"),
        ({"urls": URL}, "urls", "got str"),
        ({"urls": {"0": URL}}, "urls", "got dict"),
        ({"urls": []}, "urls", "got a list of 0"),
        ({"urls": [URL, None]}, "urls", "got a list of 2"),
        ({"urls": [URL] * (MAX_FILES + 1)}, "urls", f"1 to {MAX_FILES} strings; got a list of {MAX_FILES + 1}"),
        ({"url": URL, "upload": "never"}, "upload", "one of auto, always"),
        ({"url": URL, "upload": True}, "upload", "one of auto, always"),
        ({"url": URL, "upload_url": ["http://a/b"]}, "upload_url", "a string"),
        ({"url": URL, "upload_url": ""}, "upload_url", "http:// or https://"),
        ({"url": URL, "language": "klingon"}, "language", "language"),
        ({"url": URL, "beam_size": 0}, "beam_size", "from 1 to 64"),
        ({"url": URL, "colour": "red"}, None, "unknown option 'colour'"),
        ({"url": URL, "id": "2"}, None, "unknown option 'id'"),
    ],
)
def test_a_wrong_input_is_refused_with_its_field_and_what_was_expected(
    payload: Any, field: str | None, expected: str
) -> None:
    error = refusal(payload)
    assert error.field == field
    assert expected in error.message


def test_an_event_without_input_is_refused_and_an_id_is_always_a_string() -> None:
    with pytest.raises(InvalidRequest, match="input must be an object"):
        parse_job({"id": "1"}, settings())
    assert parse_job({"input": {"url": URL}}, settings()).id == ""
    assert parse_job({"id": 7, "input": {"url": URL}}, settings()).id == "7"
    assert parse_job({"id": None, "input": {"url": URL}}, settings()).id == ""


def test_options_are_those_of_the_input_without_the_fields_of_a_job() -> None:
    job = parse(
        {"url": URL, "upload": "always", "upload_url": "https://c/d", "vad": "false", "beam_size": "4", "prompt": "P"}
    )
    assert job.options == Options(vad=False, beam_size=4, prompt="P")
    assert job.always_upload
    assert job.upload_target == UploadTarget("https://c/d", "https://c/d", is_guarded=True)


def test_a_field_of_the_other_worker_selects_its_answer_and_sets_the_option_here() -> None:
    job = parse({"url": URL, "initial_prompt": "P", "word_timestamps": True, "transcription": "srt"})
    assert job.options == Options(prompt="P", timestamps="word")
    assert job.compat_format == CompatFormat("srt", None, word_timestamps=True)


@pytest.mark.parametrize(
    ("policy", "limit_s"),
    [
        ({"executionTimeout": 5000}, 5.0),
        ({"executionTimeout": 1}, 0.001),
        ({"executionTimeout": 1500.5}, 1.5005),
        ({"executionTimeout": 10**12 - 1}, 999_999_999.999),
        ({"ttl": 1000, "lowPriority": True}, 77.0),
        ({}, 77.0),
        ("none", 77.0),
    ],
)
def test_the_policy_of_a_job_limits_its_time_in_milliseconds(policy: object, limit_s: float) -> None:
    assert parse({"url": URL}, policy=policy).limit_s == pytest.approx(limit_s, rel=1e-12)


@pytest.mark.parametrize("timeout", [0, -1, 10**12, 10**400, float("nan"), float("inf"), "5000", True, [5000], {}])
def test_a_limit_that_can_only_be_a_mistake_is_refused(timeout: object) -> None:
    error = refusal({"url": URL}, policy={"executionTimeout": timeout})
    assert error.field == "policy.executionTimeout"
    assert "must be milliseconds" in error.message
    assert len(error.message) < 150


def test_a_bucket_is_read_from_the_platforms_field_and_never_shows_its_secret() -> None:
    job = parse({"url": URL}, s3Config={**CONFIG, "more": 1})
    assert job.bucket == Bucket("https://s3.example.com", "calls", "an id", "hunter2")
    assert "hunter2" not in repr(job)


@pytest.mark.parametrize(
    "config",
    [
        [],
        "calls",
        {},
        *({name: value for name, value in CONFIG.items() if name != left_out} for left_out in CONFIG),
        *({**CONFIG, name: value} for name in CONFIG for value in ("", None, 5)),
    ],
)
def test_an_incomplete_bucket_is_refused_without_its_secret(config: object) -> None:
    error = refusal({"url": URL}, s3Config=config)
    assert error.field == "s3Config"
    assert all(name in error.message for name in CONFIG)
    assert "hunter2" not in error.message
