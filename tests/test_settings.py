"""Every variable of the environment acts, and a bad value is refused by name."""

import dataclasses
from pathlib import Path

import pytest

from handler.settings import Settings, SettingsError
from tests.conftest import ROOT

VALID = {
    "HOST": ("127.0.0.1", "host", "127.0.0.1"),
    "PORT": ("8080", "port", 8080),
    "PORT_HEALTH": ("8081", "port_health", 8081),
    "MODEL_ID": ("openai/whisper-tiny", "model_id", "openai/whisper-tiny"),
    "MODEL_REVISION": ("v2", "model_revision", "v2"),
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
    "MAX_DURATION_S": ("60", "max_duration_s", 60.0),
    "DOWNLOAD_TIMEOUT_S": ("1.5", "download_timeout_s", 1.5),
    "UPLOAD_SILENCE_S": ("0.5", "upload_silence_s", 0.5),
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
    "CORS_ORIGINS": ("https://a.example", "cors_origins", ("https://a.example",)),
    "MODEL_ALIASES": ("turbo, whisper-1", "model_aliases", ("turbo", "whisper-1")),
    "GPU_PRICE_PER_SECOND": ("0.0002", "gpu_price_per_second", 0.0002),
    "S3_BUCKETS": ("one, two", "s3_buckets", ("one", "two")),
    "S3_ENDPOINT_URL": ("http://s3.local", "s3_endpoint_url", "http://s3.local"),
    "LOG_LEVEL": ("DEBUG", "log_level", "DEBUG"),
    "SALAD_MACHINE_ID": ("m", "salad_machine_id", "m"),
    "SALAD_CONTAINER_GROUP_ID": ("g", "salad_container_group_id", "g"),
}
BAD = {
    "PORT": "http", "PORT_HEALTH": "70000", "FLASH_ATTENTION_2": "ture", "BATCH_SIZE": "automatic", "MAX_NEW_TOKENS": "449",
    "CHUNK_LENGTH_S": "nan", "STRIDE_LENGTH_S": "16", "DEVICE": "tpu", "DTYPE": "int4", "AUDIO_CONTEXT": "10", "STARTUP_CHECK": "maybe",
    "MAX_REQUESTS": "-1", "MAX_BYTES": "1e9",
    "EXECUTION_TIMEOUT_S": "0", "CONCURRENCY": "0", "RUNPOD_STREAM": "maybe", "PROGRESS_INTERVAL_S": "-1", "MAX_RESULT_BYTES": "10",
    "UPLOAD_SILENCE_S": "0", "RESUME_BYTES": "all", "RESUME_AGE_S": "0", "GPU_PRICE_PER_SECOND": "free",
    "MAX_DURATION_S": "0", "DOWNLOAD_TIMEOUT_S": "soon", "REQUEST_TIMEOUT_S": "0", "DRAIN_TIMEOUT_S": "-1", "LOG_LEVEL": "loud",
}  # fmt: skip


def test_defaults_are_those_of_the_ancestors() -> None:
    got = Settings.from_env({})
    assert (got.host, got.port, got.model_id, got.cache_dir) == ("*", 8000, "openai/whisper-large-v3", Path("/data"))
    assert (got.batch_size, got.max_new_tokens, got.chunk_length_s, got.stride_length_s) == (16, 128, 30.0, 5.0)
    assert not got.flash_attention_2


@pytest.mark.parametrize("name", VALID)
def test_a_variable_sets_its_field(name: str) -> None:
    raw, field, value = VALID[name]
    assert getattr(Settings.from_env({name: raw}), field) == value


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_refused_with_name_value_and_expectation(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({name: BAD[name]})
    text = str(caught.value)
    assert text.startswith(name)
    assert BAD[name] in text
    assert "expected" in text


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_env({"PORT": " ", "BATCH_SIZE": ""}) == Settings()


def test_the_stride_follows_the_chunk_where_it_is_not_given() -> None:
    assert Settings.from_env({"CHUNK_LENGTH_S": "12"}).stride_length_s == 2.0


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


BUCKET = {
    "BUCKET_ENDPOINT_URL": "https://s3.example.com", "BUCKET_NAME": "results",
    "BUCKET_ACCESS_KEY_ID": "key", "BUCKET_SECRET_ACCESS_KEY": "secret",
}  # fmt: skip


def test_secrets_are_not_shown() -> None:
    assert "hunter2" not in repr(Settings.from_env({**BUCKET, "BUCKET_SECRET_ACCESS_KEY": "hunter2", "RUNPOD_API_KEY": "hunter2"}))


def test_a_bucket_is_named_whole() -> None:
    got = Settings.from_env(BUCKET)
    assert [getattr(got, name.lower()) for name in BUCKET] == list(BUCKET.values())


@pytest.mark.parametrize("name", BUCKET)
def test_a_bucket_that_lacks_a_part_is_refused_by_the_part(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}=.*expected"):
        Settings.from_env({other: value for other, value in BUCKET.items() if other != name})


def test_every_variable_is_tested_here_and_stands_in_the_readme() -> None:
    names = {field.metadata["name"] for field in dataclasses.fields(Settings)}
    assert set(VALID) | set(BUCKET) == names
    readme = (ROOT / "README.md").read_text()
    assert [name for name in sorted(names) if f"| `{name}` |" not in readme] == []
