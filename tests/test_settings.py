"""Every environment variable sets its field, and an invalid value is refused by the variable's name."""

import base64
import dataclasses
from pathlib import Path

import pytest

from handler.settings import Settings, SettingsError
from tests.support.tables import code_in, says_unset, table

WEBHOOK_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
VALID = {
    "HOST": ("127.0.0.1", "host", "127.0.0.1"),
    "PORT": ("8080", "port", 8080),
    "PORT_HEALTH": ("8081", "port_health", 8081),
    "MODEL_ID": ("openai/whisper-tiny", "model_id", "openai/whisper-tiny"),
    "MODEL_REVISION": ("v2", "model_revision", "v2"),
    "MODEL_LANGUAGE": ("fra", "model_language", "fra"),
    "BACKEND": ("openvino", "backend", "openvino"),
    "TRUST_REMOTE_CODE": ("1", "trust_remote_code", True),
    "DIARIZE_MODEL": ("pkg:moonshine_voice", "diarize_model", "pkg:moonshine_voice"),
    "ALIGN_MODEL": ("openai/whisper-base", "align_model", "openai/whisper-base"),
    "CACHE_DIR": ("/models", "cache_dir", Path("/models")),
    "FLASH_ATTENTION_2": ("1", "flash_attention_2", True),
    "BATCH_SIZE": ("auto", "batch_size", None),
    "MAX_NEW_TOKENS": ("64", "max_new_tokens", 64),
    "CHUNK_LENGTH_S": ("20", "chunk_length_s", 20.0),
    "STRIDE_LENGTH_S": ("3.5", "stride_length_s", 3.5),
    "DEVICE": ("cuda:1", "device", "cuda:1"),
    "DTYPE": ("float16", "dtype", "float16"),
    "AUDIO_CONTEXT": ("full", "audio_context", "full"),
    "STARTUP_CHECK": ("0", "startup_check", False),
    "MAX_REQUESTS": ("7", "max_requests", 7),
    "MAX_BYTES": ("1000", "max_bytes", 1000),
    "MAX_SPOOL_BYTES": ("1000", "max_spool_bytes", 1000),
    "MAX_DURATION_S": ("60", "max_duration_s", 60.0),
    "DOWNLOAD_TIMEOUT_S": ("1.5", "download_timeout_s", 1.5),
    "UPLOAD_SILENCE_S": ("0.5", "upload_silence_s", 0.5),
    "UPLOAD_MIN_RATE": ("0", "upload_min_rate", 0),
    "REQUEST_TIMEOUT_S": ("90", "request_timeout_s", 90.0),
    "DRAIN_TIMEOUT_S": ("5", "drain_timeout_s", 5),
    "EXECUTION_TIMEOUT_S": ("90", "execution_timeout_s", 90.0),
    "CONCURRENCY": ("3", "concurrency", 3),
    "RUNPOD_STREAM": ("1", "stream", True),
    "PROGRESS_INTERVAL_S": ("0.5", "progress_interval_s", 0.5),
    "MAX_RESULT_BYTES": ("20000", "max_result_bytes", 20_000),
    "BUCKET_REGION": ("eu-central-2", "bucket_region", "eu-central-2"),
    "RUNPOD_API_KEY": ("hunter2", "runpod_api_key", "hunter2"),
    "RESUME_DIR": ("/kept", "resume_dir", Path("/kept")),
    "RESUME_BYTES": ("1000", "resume_bytes", 1000),
    "RESUME_AGE_S": ("60", "resume_age_s", 60.0),
    "API_KEY": ("one, two", "api_keys", ("one", "two")),
    "WEBHOOK_SECRET": (
        f"{WEBHOOK_SECRET}, {WEBHOOK_SECRET}",
        "webhook_secrets",
        (bytes(range(32)), bytes(range(32))),
    ),
    "MAX_JOBS": ("5", "max_jobs", 5),
    "JOB_KEEP_S": ("60", "job_keep_s", 60.0),
    "WYOMING_PORT": ("10300", "wyoming_port", 10300),
    "MAX_SESSIONS": ("8", "max_sessions", 8),
    "SESSION_IDLE_S": ("30", "session_idle_s", 30.0),
    "SESSION_LIMIT_S": ("600", "session_limit_s", 600.0),
    "SESSION_RESUME_S": ("0", "session_resume_s", 0.0),
    "CORS_ORIGINS": ("https://a.example", "cors_origins", ("https://a.example",)),
    "ALLOWED_HOSTS": ("a.example, *.b.example", "allowed_hosts", ("a.example", "*.b.example")),
    "MODEL_ALIASES": ("turbo, whisper-1", "model_aliases", ("turbo", "whisper-1")),
    "GPU_PRICE_PER_SECOND": ("0.0002", "gpu_price_per_second", 0.0002),
    "S3_BUCKETS": ("one, two", "s3_buckets", ("one", "two")),
    "S3_ENDPOINT_URL": ("http://s3.local", "s3_endpoint_url", "http://s3.local"),
    "LOG_LEVEL": ("DEBUG", "log_level", "DEBUG"),
    "SALAD_MACHINE_ID": ("m", "salad_machine_id", "m"),
    "SALAD_CONTAINER_GROUP_ID": ("g", "salad_container_group_id", "g"),
}
BAD = {
    "PORT": "http",
    "PORT_HEALTH": "70000",
    "FLASH_ATTENTION_2": "ture",
    "BATCH_SIZE": "automatic",
    "MAX_NEW_TOKENS": "449",
    "CHUNK_LENGTH_S": "nan",
    "STRIDE_LENGTH_S": "16",
    "DEVICE": "tpu",
    "DTYPE": "int4",
    "AUDIO_CONTEXT": "10",
    "STARTUP_CHECK": "maybe",
    "MAX_REQUESTS": "-1",
    "MAX_BYTES": "1e9",
    "EXECUTION_TIMEOUT_S": "0",
    "CONCURRENCY": "0",
    "RUNPOD_STREAM": "maybe",
    "PROGRESS_INTERVAL_S": "-1",
    "MAX_RESULT_BYTES": "10",
    "UPLOAD_SILENCE_S": "0",
    "UPLOAD_MIN_RATE": "-1",
    "RESUME_BYTES": "all",
    "RESUME_AGE_S": "0",
    "GPU_PRICE_PER_SECOND": "free",
    "MAX_DURATION_S": "0",
    "DOWNLOAD_TIMEOUT_S": "soon",
    "REQUEST_TIMEOUT_S": "0",
    "DRAIN_TIMEOUT_S": "-1",
    "ALLOWED_HOSTS": "https://a.example",
    "LOG_LEVEL": "loud",
    "BACKEND": "onnx",
}


def test_defaults_are_those_of_the_ancestors() -> None:
    settings = Settings.from_env({})
    assert (settings.host, settings.port) == ("*", 8000)
    assert (settings.model_id, settings.cache_dir) == ("openai/whisper-large-v3", Path("/data"))
    assert settings.max_new_tokens == 128
    assert (settings.chunk_length_s, settings.stride_length_s) == (30.0, 5.0)
    assert not settings.flash_attention_2


@pytest.mark.parametrize("name", VALID)
def test_a_variable_sets_its_field(name: str) -> None:
    raw, field, value = VALID[name]
    others = {"MODEL_REVISION": "0" * 40} if name == "TRUST_REMOTE_CODE" else {}
    assert getattr(Settings.from_env({name: raw, **others}), field) == value


@pytest.mark.parametrize("revision", [{}, {"MODEL_REVISION": "main"}, {"MODEL_REVISION": "0" * 39}], ids=str)
def test_code_runs_at_a_commit_alone(revision: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="MODEL_REVISION to be a commit"):
        Settings.from_env({"TRUST_REMOTE_CODE": "1", **revision})


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_refused_with_name_value_and_expectation(name: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_env({name: BAD[name]})
    text = str(error.value)
    assert text.startswith(name)
    assert BAD[name] in text
    assert "expected" in text


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_env({"PORT": " ", "BATCH_SIZE": ""}) == Settings()


def test_an_unset_stride_follows_the_chunk_length() -> None:
    assert Settings.from_env({"CHUNK_LENGTH_S": "12"}).stride_length_s == 2.0


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


BUCKET = {
    "BUCKET_ENDPOINT_URL": "https://s3.example.com",
    "BUCKET_NAME": "results",
    "BUCKET_ACCESS_KEY_ID": "key",
    "BUCKET_SECRET_ACCESS_KEY": "secret",
}


def test_secrets_are_not_shown() -> None:
    secrets = dict.fromkeys(("BUCKET_SECRET_ACCESS_KEY", "RUNPOD_API_KEY"), "hunter2")
    assert "hunter2" not in repr(Settings.from_env({**BUCKET, **secrets}))


@pytest.mark.parametrize("secret", ["hunter2", "whsec_hunter2", "whsec_aHVudGVyMg==", WEBHOOK_SECRET[:-16]])
def test_a_bad_secret_of_webhooks_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(SettingsError, match=r"WEBHOOK_SECRET=.*expected whsec_") as info:
        Settings.from_env({"WEBHOOK_SECRET": secret})
    assert secret.removeprefix("whsec_")[:7] not in str(info.value)


def test_a_bucket_is_configured_by_all_its_variables() -> None:
    settings = Settings.from_env(BUCKET)
    assert [getattr(settings, name.lower()) for name in BUCKET] == list(BUCKET.values())


@pytest.mark.parametrize("name", BUCKET)
def test_a_bucket_without_one_of_them_is_refused_by_the_missing_variable(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}=.*expected"):
        Settings.from_env({variable: value for variable, value in BUCKET.items() if variable != name})


def test_every_variable_is_tested_here_and_stands_in_the_reference() -> None:
    names = {field.metadata["name"] for field in dataclasses.fields(Settings)}
    assert set(VALID) | set(BUCKET) == names
    assert table("docs/reference/variables.md", "variable").keys() == names


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.metadata["name"])
def test_the_reference_has_the_default_of_a_variable(field: "dataclasses.Field[object]") -> None:
    cell = table("docs/reference/variables.md", "variable")[field.metadata["name"]][-1]
    if says_unset(cell):
        assert field.default in (None, False, ())
    else:
        assert field.metadata["parse"](code_in(cell)) == field.default


@pytest.mark.parametrize("hosts", ["*", "a.example", "*.a.example", "10.0.0.7", "[::1]", "a_b", "a.example, localhost"])
def test_a_host_is_a_name_or_an_address(hosts: str) -> None:
    assert ", ".join(Settings.from_env({"ALLOWED_HOSTS": hosts}).allowed_hosts) == hosts


@pytest.mark.parametrize(
    "hosts", ["a.example:8000", "::1", "a.*.example", "*a.example", "a b", "a/b", "[::1", "ä.example"]
)
def test_a_host_with_a_port_or_an_odd_pattern_is_refused(hosts: str) -> None:
    with pytest.raises(SettingsError, match=r"^ALLOWED_HOSTS=.*without ports"):
        Settings.from_env({"ALLOWED_HOSTS": hosts})
