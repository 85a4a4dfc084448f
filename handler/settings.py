"""The configuration: a frozen Settings read from the environment, once. The only reader of the environment; knows no room of the house."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from handler.logs import LEVELS


class SettingsError(ValueError):
    """A variable of the environment has a value that cannot be used; the text names it, the value and what was expected."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name}={value!r}: expected {expected}")


def _text(name: str, raw: str) -> str:
    return raw


def _folder(name: str, raw: str) -> Path:
    return Path(raw)


def _names(name: str, raw: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in raw.split(",") if part.strip())


def _flag(name: str, raw: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if raw.lower() not in values:
        raise SettingsError(name, raw, f"one of {', '.join(values)}")
    return values[raw.lower()]


def _one_of(*values: str) -> Callable[[str, str], str]:
    def parse(name: str, raw: str) -> str:
        if raw not in values:
            raise SettingsError(name, raw, f"one of {', '.join(values)}")
        return raw

    return parse


def _whole(low: int, high: int) -> Callable[[str, str], int]:
    def parse(name: str, raw: str) -> int:
        if not (raw.isascii() and raw.isdigit() and low <= int(raw) <= high):
            raise SettingsError(name, raw, f"a whole number from {low} to {high}")
        return int(raw)

    return parse


def _batch_size(name: str, raw: str) -> int | None:
    if raw == "auto":
        return None
    try:
        return _whole(1, 1024)(name, raw)
    except SettingsError as exc:
        raise SettingsError(name, raw, "auto or a whole number from 1 to 1024") from exc


def _seconds(low: float, high: float) -> Callable[[str, str], float]:
    def parse(name: str, raw: str) -> float:
        try:
            value = float(raw)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise SettingsError(name, raw, f"seconds, a number from {low:g} to {high:g}")
        return value

    return parse


def _amount(name: str, raw: str) -> float:
    try:
        value = float(raw)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1000:
        raise SettingsError(name, raw, "a number from 0 to 1000")
    return value


def _web_address(name: str, raw: str) -> str:
    if not raw.startswith(("http://", "https://")):
        raise SettingsError(name, raw, "an address that begins with http:// or https://")
    return raw


def _device(name: str, raw: str) -> str:
    kind, _, index = raw.partition(":")
    if raw not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isascii() and index.isdigit()):
        raise SettingsError(name, raw, "auto, cpu, cuda or cuda:N")
    return raw


def _var(name: str, default: Any, parse: Callable[[str, str], Any], doc: str, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"name": name, "parse": parse, "doc": doc})


GIB = 1024**3
_DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How this process runs. Each field is one variable; an empty variable counts as unset."""

    host: str = _var("HOST", "*", _text, "address to listen on, `*` for all")
    port: int = _var("PORT", 8000, _whole(0, 65535), "port to listen on")
    port_health: int | None = _var(
        "PORT_HEALTH", None, _whole(0, 65535), "port of RunPod's load balancer for `/hc`; where set, a starting server says 204"
    )
    model_id: str = _var(
        "MODEL_ID", "openai/whisper-large-v3", _text, "Hub id, folder, or `pkg:PACKAGE/FOLDER` inside an installed Python package"
    )
    model_revision: str | None = _var("MODEL_REVISION", None, _text, "branch, tag or commit of a Hub id")
    cache_dir: Path = _var("CACHE_DIR", Path("/data"), _folder, "where models are kept")
    flash_attention_2: bool = _var("FLASH_ATTENTION_2", False, _flag, "`1` asks for FlashAttention-2 by name where GPU and dtype allow it")
    batch_size: int | None = _var("BATCH_SIZE", 16, _batch_size, "windows decoded together; `auto`: as many as the free memory holds")
    max_new_tokens: int = _var(
        "MAX_NEW_TOKENS", 128, _whole(1, 448), "tokens a window may produce before it is checked for a loop; then it is continued"
    )
    chunk_length_s: float = _var("CHUNK_LENGTH_S", 30.0, _seconds(1, _DAY_S), "longest window, seconds")
    stride_length_s: float = _var(
        "STRIDE_LENGTH_S",
        None,
        _seconds(0, _DAY_S),
        "how far back from the end of a full window a pause is looked for, and how far windows overlap where speech has none",
    )
    device: str = _var("DEVICE", "auto", _device, "`auto`, `cpu`, `cuda` or `cuda:N`")
    dtype: str = _var("DTYPE", "auto", _one_of("auto", "float32", "bfloat16", "float16"), "`auto`, `float32`, `bfloat16` or `float16`")
    audio_context: str = _var(
        "AUDIO_CONTEXT", "auto", _one_of("auto", "short", "full"),
        "how much the encoder hears: `full`, 30 s always, or `short`, a window and 6 s of silence; `auto` is short on a CPU",
    )  # fmt: skip
    startup_check: bool = _var(
        "STARTUP_CHECK", True, _flag, "`0` starts also where the model does not understand the English sentence that it is tried with"
    )
    max_requests: int = _var("MAX_REQUESTS", 128, _whole(1, 4096), "requests in work at once; more are `overloaded`")
    max_bytes: int = _var("MAX_BYTES", 4 * GIB, _whole(1, 1024 * GIB), "largest file, bytes")
    max_duration_s: float = _var("MAX_DURATION_S", _DAY_S, _seconds(1, 100 * _DAY_S), "longest audio, seconds")
    download_timeout_s: float = _var("DOWNLOAD_TIMEOUT_S", 600.0, _seconds(0.01, _DAY_S), "time for one whole download, seconds")
    upload_silence_s: float = _var(
        "UPLOAD_SILENCE_S",
        60.0,
        _seconds(0.01, _DAY_S),
        "longest time between two pieces of an upload, and for all that comes before its file, seconds",
    )
    request_timeout_s: float = _var(
        "REQUEST_TIMEOUT_S", _DAY_S, _seconds(0.01, 100 * _DAY_S), "time for one request, its download or upload included, seconds"
    )
    drain_timeout_s: int = _var(
        "DRAIN_TIMEOUT_S", 60, _whole(0, _DAY_S), "time that a process which is told to end gives to what is in work, whole seconds"
    )
    execution_timeout_s: float = _var(
        "EXECUTION_TIMEOUT_S", 600.0, _seconds(1, _DAY_S), "time that the queue gives to a job which names none, seconds"
    )
    concurrency: int | None = _var("CONCURRENCY", None, _whole(1, 4096), "jobs of the queue in work at once")
    stream: bool = _var("RUNPOD_STREAM", False, _flag, "`1` makes the queue worker stream text as it is done")
    progress_interval_s: float = _var(
        "PROGRESS_INTERVAL_S", 2.0, _seconds(0, _DAY_S), "least time between two updates on a job of the queue, seconds; `0` sends none"
    )
    max_result_bytes: int = _var(
        "MAX_RESULT_BYTES", 10_000_000, _whole(10_000, GIB), "largest answer to a job of the queue, bytes; more goes to a bucket"
    )
    bucket_endpoint_url: str | None = _var("BUCKET_ENDPOINT_URL", None, _web_address, "address of the S3 service that takes large answers")
    bucket_region: str | None = _var("BUCKET_REGION", None, _text, "its region, where the address does not name it")
    bucket_name: str | None = _var("BUCKET_NAME", None, _text, "bucket for them")
    bucket_access_key_id: str | None = _var("BUCKET_ACCESS_KEY_ID", None, _text, "key of that bucket")
    bucket_secret_access_key: str | None = _var("BUCKET_SECRET_ACCESS_KEY", None, _text, "its secret", secret=True)
    runpod_api_key: str | None = _var("RUNPOD_API_KEY", None, _text, "RunPod's key for `asr submit`", secret=True)
    resume_dir: Path | None = _var(
        "RESUME_DIR",
        None,
        _folder,
        "folder where finished windows are kept, so that a job which comes again goes on; it holds people's text",
    )
    resume_bytes: int = _var("RESUME_BYTES", GIB, _whole(0, 1024 * GIB), "most that is kept there, bytes")
    resume_age_s: float = _var("RESUME_AGE_S", 7 * _DAY_S, _seconds(1, 1000 * _DAY_S), "longest that a window is kept unused, seconds")
    api_keys: tuple[str, ...] = _var(
        "API_KEY", (), _names, "keys of which the HTTP server asks for one, comma-separated; unset: it is open", secret=True
    )
    cors_origins: tuple[str, ...] = _var("CORS_ORIGINS", (), _names, "origins whose pages may ask the server, comma-separated; `*` for all")
    model_aliases: tuple[str, ...] = _var("MODEL_ALIASES", ("whisper-1",), _names, "other names that requests may call the model by")
    gpu_price_per_second: float | None = _var(
        "GPU_PRICE_PER_SECOND", None, _amount, "what a second of the device costs; answers then tell their `price`"
    )
    s3_buckets: tuple[str, ...] = _var("S3_BUCKETS", (), _names, "buckets that `s3://` addresses may name, comma-separated")
    s3_endpoint_url: str | None = _var("S3_ENDPOINT_URL", None, _text, "address of an S3-compatible service other than AWS")
    log_level: str = _var("LOG_LEVEL", "INFO", _one_of(*LEVELS), "least level of the log lines")
    salad_machine_id: str | None = _var("SALAD_MACHINE_ID", None, _text, "sent back as `X-Salad-Machine-ID`")
    salad_container_group_id: str | None = _var("SALAD_CONTAINER_GROUP_ID", None, _text, "sent back as `X-Salad-Container-Group-ID`")

    def __post_init__(self) -> None:
        if self.stride_length_s is None:
            object.__setattr__(self, "stride_length_s", self.chunk_length_s / 6)
        if self.stride_length_s > self.chunk_length_s / 2:
            raise SettingsError("STRIDE_LENGTH_S", self.stride_length_s, f"at most half of CHUNK_LENGTH_S={self.chunk_length_s:g}")

        bucket = ("bucket_endpoint_url", "bucket_name", "bucket_access_key_id", "bucket_secret_access_key")
        missing = [name.upper() for name in bucket if getattr(self, name) is None]
        if 0 < len(missing) < len(bucket):
            raise SettingsError(missing[0], "", f"a value, since others of {', '.join(name.upper() for name in bucket)} have one")

    def check_window(self, longest_s: float) -> None:
        """Raise SettingsError where windows would be longer than the model takes, `longest_s` seconds."""
        if self.chunk_length_s > longest_s:
            raise SettingsError(
                "CHUNK_LENGTH_S", self.chunk_length_s, f"at most {longest_s:g}, the longest window that {self.model_id} takes"
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """The settings of this environment. Raises SettingsError for the first variable that cannot be used."""
        given = {}
        for f in fields(cls):
            name = f.metadata["name"]
            if raw := environ.get(name, "").strip():
                given[f.name] = f.metadata["parse"](name, raw)
        return cls(**given)
