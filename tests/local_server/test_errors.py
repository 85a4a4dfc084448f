"""Test the HTTP form of errors: what OpenAI's package makes of each, and the form on this server's own paths."""

import json
from typing import Any

import httpx
import openai
import pytest

from handler.errors import AsrError, CorruptMedia, InvalidRequest, Overloaded, Unauthorized, UnsupportedMedia, all_kinds
from local_server.errors import STATUS, error_response

KINDS = sorted({kind.code: kind for kind in all_kinds() if kind is not AsrError}.values(), key=lambda kind: kind.code)
# Code: the class that OpenAI's package raises, and the error's type. All other codes are faults of the server.
CLIENT_ERRORS: dict[str, tuple[type[openai.APIStatusError], str]] = {
    "invalid_request": (openai.BadRequestError, "invalid_request_error"),
    "unauthorized": (openai.AuthenticationError, "authentication_error"),
    "download_blocked": (openai.PermissionDeniedError, "permission_error"),
    "model_not_found": (openai.NotFoundError, "invalid_request_error"),
    "session_not_found": (openai.NotFoundError, "invalid_request_error"),
    "job_not_found": (openai.NotFoundError, "invalid_request_error"),
    "too_large": (openai.APIStatusError, "invalid_request_error"),
    "unsupported_media": (openai.BadRequestError, "invalid_request_error"),
    "no_audio_stream": (openai.BadRequestError, "invalid_request_error"),
    "corrupt_media": (openai.BadRequestError, "invalid_request_error"),
    "too_long": (openai.BadRequestError, "invalid_request_error"),
    "overloaded": (openai.RateLimitError, "rate_limit_error"),
    "download_refused": (openai.UnprocessableEntityError, "invalid_request_error"),
    "upload_refused": (openai.UnprocessableEntityError, "invalid_request_error"),
    "cancelled": (openai.APIStatusError, "invalid_request_error"),
}


def raised_by_openai(error: AsrError) -> openai.APIStatusError:
    """Return what OpenAI's package raises for the response to a request that ended with an error."""

    def handle(request: httpx.Request) -> httpx.Response:
        response = error_response(error, request.url.path)
        return httpx.Response(response.status_code, headers=response.raw_headers, content=bytes(response.body))

    http_client: Any = httpx.Client(transport=httpx.MockTransport(handle))
    with openai.OpenAI(base_url="http://a/v1", api_key="key", max_retries=0, http_client=http_client) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.models.list()
        return caught.value


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_openais_package_raises_the_class_of_each_error_with_its_code_and_type(kind: type[AsrError]) -> None:
    raised = raised_by_openai(kind("expected sound; got “silence”", "language"))
    expected = CLIENT_ERRORS.get(kind.code, (openai.InternalServerError, "server_error"))
    assert (type(raised), raised.type) == expected
    if type(raised) is not openai.BadRequestError:
        assert raised.status_code == STATUS[kind.code]
    assert raised.code == ("invalid_api_key" if kind is Unauthorized else kind.code)
    assert raised.param == "language"
    assert isinstance(raised.body, dict)
    assert set(raised.body) == {"message", "type", "param", "code"}
    assert raised.body["message"] == "expected sound; got “silence”"


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("hotwords", "hotwords"),
        ("task", None),
        (None, None),
        ("prompt", "prompt"),
        ("timestamp_granularities", "timestamp_granularities"),
        ("keywords", "keywords"),
    ],
)
def test_a_field_has_the_name_that_it_has_in_openais_api(field: str | None, param: str | None) -> None:
    assert raised_by_openai(InvalidRequest("expected another", field)).param == param


def test_a_file_that_cannot_be_read_is_the_field_file() -> None:
    assert raised_by_openai(UnsupportedMedia("expected sound")).param == "file"
    assert raised_by_openai(CorruptMedia("expected sound", "url")).param == "url"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
@pytest.mark.parametrize("path", ["/asr", "/", "/v1", "/v1x/models", "/a/v1/models", "/V1/models"])
def test_any_other_path_has_the_same_error_as_every_interface(kind: type[AsrError], path: str) -> None:
    response = error_response(kind("expected sound", "language"), path)
    assert response.status_code == STATUS[kind.code]
    assert response.headers["content-type"] == "application/json"
    expected = {"code": kind.code, "message": "expected sound", "retryable": kind.retryable}
    assert json.loads(bytes(response.body)) == {"error": expected}


@pytest.mark.parametrize("path", ["/asr", "/v1/audio/transcriptions"])
def test_only_an_overloaded_server_says_when_to_come_back(path: str) -> None:
    waits = {kind for kind in KINDS if "retry-after" in error_response(kind("a"), path).headers}
    assert waits == {Overloaded}


def test_a_client_that_retries_by_the_status_retries_every_retryable_error_and_no_wrong_request() -> None:
    retried = {kind.code for kind in KINDS if STATUS[kind.code] == 429 or STATUS[kind.code] >= 500}
    assert retried - {kind.code for kind in KINDS if kind.retryable} == {"internal"}
    assert {kind.code for kind in KINDS if kind.retryable} <= retried


@pytest.mark.parametrize("path", ["/asr", "/v1/models"])
def test_half_a_character_in_a_message_does_not_break_its_response(path: str) -> None:
    response = error_response(InvalidRequest("expected text; got \ud800"), path)
    assert json.loads(bytes(response.body))["error"]["message"] == "expected text; got \\ud800"
