"""The configuration of a process: a frozen Settings object, which is read from environment variables once.

No other module reads settings from the environment. Knows no package.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from handler.logs import LEVELS
from handler.validators import (
    Parser,
    Unexpected,
    comma_separated,
    flag,
    hosts,
    integer,
    number,
    one_of,
    seconds,
    web_address,
    webhook_secrets,
)

GIB = 1024**3  # bytes
_DAY_S = 24 * 3600
DEFAULT_ALIASES = (
    *("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize", "gpt-transcribe"),
    *("gpt-live-transcribe", "gpt-realtime-whisper", "nova-2", "nova-2-general", "nova-3", "nova-3-general"),
)
_LANGUAGE = re.compile(r"[A-Za-z][\w-]{1,63}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")  # of a model on the Hub


class SettingsError(ValueError):
    """An environment variable has an unusable value. The message has the name, the value and what was expected."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name}={value!r}: expected {expected}")


def _text(value: object) -> str:
    return str(value)


def _folder(value: object) -> Path:
    return Path(str(value))


def _language(value: object) -> str:
    if not _LANGUAGE.fullmatch(str(value)):
        raise Unexpected("one language, such as fr, French or, for weights of MMS, fra")
    return str(value)


def _batch_size(value: object) -> int | None:
    try:
        return None if value == "auto" else integer(1, 1024)(value)
    except Unexpected as exc:
        raise Unexpected(f"auto or {exc}") from None


def _device(value: object) -> str:
    name = str(value)
    kind, _, index = name.partition(":")
    if name not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isascii() and index.isdigit()):
        raise Unexpected("auto, cpu, cuda or cuda:N")
    return name


def _variable(name: str, default: Any, parse: Parser[Any], doc: str, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"name": name, "parse": parse, "doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How this process runs. Each field is one environment variable, and an empty variable counts as unset."""

    host: str = _variable("HOST", "*", _text, "address to listen on, `*` for all")
    port: int = _variable("PORT", 8000, integer(0, 65535), "port to listen on")
    port_health: int | None = _variable(
        "PORT_HEALTH",
        None,
        integer(0, 65535),
        "port of RunPod's load balancer for `/hc`; if set, a starting server answers 204",
    )
    model_id: str = _variable(
        "MODEL_ID",
        "openai/whisper-large-v3",
        _text,
        "Hub id, folder, or `pkg:PACKAGE/FOLDER` inside an installed Python package",
    )
    model_revision: str | None = _variable("MODEL_REVISION", None, _text, "branch, tag or commit of a Hub id")
    model_language: str | None = _variable(
        "MODEL_LANGUAGE", None, _language, "language of a checkpoint that states none, or has weights for each language"
    )
    backend: str = _variable(
        "BACKEND", "pytorch", one_of(("pytorch", "openvino")), "what computes a CTC model on a processor"
    )
    trust_remote_code: bool = _variable(
        "TRUST_REMOTE_CODE", False, flag, "`1` runs code that a checkpoint brings; needs a commit as MODEL_REVISION"
    )
    diarize_model: str | None = _variable(
        "DIARIZE_MODEL",
        None,
        _text,
        "model that tells speakers apart, for the option `diarize`: `pkg:moonshine_voice`, a Hub id or a folder",
    )
    align_model: str | None = _variable(
        "ALIGN_MODEL", None, _text, "Whisper model, named as in MODEL_ID, that times the words of a model without times"
    )
    cache_dir: Path = _variable("CACHE_DIR", Path("/data"), _folder, "folder that models are kept in")
    flash_attention_2: bool = _variable(
        "FLASH_ATTENTION_2", False, flag, "`1` selects FlashAttention-2 if GPU and dtype allow it"
    )
    batch_size: int | None = _variable(
        "BATCH_SIZE",
        None,
        _batch_size,
        "windows decoded together; `auto`: as many as the free memory holds, at most 64, or 16 on a CPU",
    )
    max_new_tokens: int = _variable(
        "MAX_NEW_TOKENS",
        128,
        integer(1, 448),
        "tokens that a window may produce before it is checked for a loop; then it is continued",
    )
    chunk_length_s: float = _variable("CHUNK_LENGTH_S", 30.0, seconds(1, _DAY_S), "longest window, seconds")
    stride_length_s: float = _variable(
        "STRIDE_LENGTH_S",
        None,
        seconds(0, _DAY_S),
        "how far back from the end of a full window a pause is searched, and how far windows overlap if there is none",
    )
    device: str = _variable("DEVICE", "auto", _device, "`auto`, `cpu`, `cuda` or `cuda:N`")
    dtype: str = _variable(
        "DTYPE",
        "auto",
        one_of(("auto", "float32", "bfloat16", "float16")),
        "`auto`, `float32`, `bfloat16` or `float16`",
    )
    audio_context: str = _variable(
        "AUDIO_CONTEXT",
        "auto",
        one_of(("auto", "short", "full")),
        "input of the encoder: `full`, always 30 s, or `short`, a window and 6 s of silence; `auto` is short on a CPU",
    )
    startup_check: bool = _variable(
        "STARTUP_CHECK", True, flag, "`0` starts even if the model does not understand the English test sentence"
    )
    max_requests: int = _variable(
        "MAX_REQUESTS", 128, integer(1, 4096), "requests in work at once; more are `overloaded`"
    )
    max_bytes: int = _variable("MAX_BYTES", 4 * GIB, integer(1, 1024 * GIB), "largest file, bytes")
    max_spool_bytes: int = _variable(
        "MAX_SPOOL_BYTES",
        16 * GIB,
        integer(1, 1024 * GIB),
        "largest size of the files of all requests together, bytes; more are `storage_full`",
    )
    max_duration_s: float = _variable("MAX_DURATION_S", _DAY_S, seconds(1, 100 * _DAY_S), "longest audio, seconds")
    download_timeout_s: float = _variable(
        "DOWNLOAD_TIMEOUT_S", 600.0, seconds(0.01, _DAY_S), "time for one complete download, seconds"
    )
    upload_silence_s: float = _variable(
        "UPLOAD_SILENCE_S",
        60.0,
        seconds(0.01, _DAY_S),
        "longest time between two pieces of an upload, and for everything that precedes its file, seconds",
    )
    upload_min_rate: int = _variable(
        "UPLOAD_MIN_RATE",
        50,
        integer(0, GIB),
        "bytes a second that an upload must average; it may fall behind by UPLOAD_SILENCE_S; `0`: any",
    )
    request_timeout_s: float = _variable(
        "REQUEST_TIMEOUT_S",
        _DAY_S,
        seconds(0.01, 100 * _DAY_S),
        "time for one request, including its download or upload, seconds",
    )
    drain_timeout_s: int = _variable(
        "DRAIN_TIMEOUT_S", 60, integer(0, _DAY_S), "time that a stopping process gives to running work, whole seconds"
    )
    execution_timeout_s: float = _variable(
        "EXECUTION_TIMEOUT_S", 600.0, seconds(1, _DAY_S), "time of the queue for a job that names none, seconds"
    )
    concurrency: int | None = _variable("CONCURRENCY", None, integer(1, 4096), "jobs of the queue in work at once")
    stream: bool = _variable("RUNPOD_STREAM", False, flag, "`1` makes the queue worker stream text as it is decoded")
    progress_interval_s: float = _variable(
        "PROGRESS_INTERVAL_S",
        2.0,
        seconds(0, _DAY_S),
        "shortest time between two updates on a job of the queue, seconds; `0` sends none",
    )
    max_result_bytes: int = _variable(
        "MAX_RESULT_BYTES",
        10_000_000,
        integer(10_000, GIB),
        "largest answer to a job of the queue, bytes; a larger one goes to a bucket",
    )
    bucket_endpoint_url: str | None = _variable(
        "BUCKET_ENDPOINT_URL", None, web_address, "address of the S3 service that stores large answers"
    )
    bucket_region: str | None = _variable(
        "BUCKET_REGION", None, _text, "region of the bucket, if the address does not name it"
    )
    bucket_name: str | None = _variable("BUCKET_NAME", None, _text, "bucket for large answers")
    bucket_access_key_id: str | None = _variable("BUCKET_ACCESS_KEY_ID", None, _text, "key of the bucket")
    bucket_secret_access_key: str | None = _variable(
        "BUCKET_SECRET_ACCESS_KEY", None, _text, "secret of the bucket", secret=True
    )
    runpod_api_key: str | None = _variable("RUNPOD_API_KEY", None, _text, "RunPod's key for `asr submit`", secret=True)
    resume_dir: Path | None = _variable(
        "RESUME_DIR",
        None,
        _folder,
        "folder for finished windows, so that a repeated job continues; it contains users' text",
    )
    resume_bytes: int = _variable("RESUME_BYTES", GIB, integer(0, 1024 * GIB), "largest size of that folder, bytes")
    resume_age_s: float = _variable(
        "RESUME_AGE_S", 7 * _DAY_S, seconds(1, 1000 * _DAY_S), "longest time that an unused window is kept, seconds"
    )
    api_keys: tuple[str, ...] = _variable(
        "API_KEY",
        (),
        comma_separated,
        "keys of which the HTTP server requires one, comma-separated; unset: it is open",
        secret=True,
    )
    cors_origins: tuple[str, ...] = _variable(
        "CORS_ORIGINS",
        (),
        comma_separated,
        "origins whose pages may call the server, comma-separated; `*` for all",
    )
    allowed_hosts: tuple[str, ...] = _variable(
        "ALLOWED_HOSTS",
        (),
        hosts,
        "hosts by which requests may address the HTTP server, comma-separated, without ports; unset: all",
    )
    model_aliases: tuple[str, ...] = _variable(
        "MODEL_ALIASES",
        DEFAULT_ALIASES,
        comma_separated,
        "further names that requests may use for the model; unset: those that clients of OpenAI and Deepgram use",
    )
    gpu_price_per_second: float | None = _variable(
        "GPU_PRICE_PER_SECOND",
        None,
        number(0, 1000),
        "cost of a second of the device; answers then contain their `price`",
    )
    s3_buckets: tuple[str, ...] = _variable(
        "S3_BUCKETS", (), comma_separated, "buckets that `s3://` addresses may name, comma-separated"
    )
    s3_endpoint_url: str | None = _variable(
        "S3_ENDPOINT_URL", None, _text, "address of an S3-compatible service other than AWS"
    )
    log_level: str = _variable("LOG_LEVEL", "INFO", one_of(LEVELS), "lowest level of the log lines")
    webhook_secrets: tuple[bytes, ...] = _variable(
        "WEBHOOK_SECRET",
        (),
        webhook_secrets,
        "secrets that sign messages to `callback_url`, `whsec_` and base64, comma-separated; unset: it is refused",
        secret=True,
    )
    max_jobs: int = _variable(
        "MAX_JOBS", 1000, integer(1, 100_000), "jobs of the HTTP server that wait or run; more are `overloaded`"
    )
    job_keep_s: float = _variable(
        "JOB_KEEP_S", 3600.0, seconds(1, 100 * _DAY_S), "time that the result of such a job is kept, seconds"
    )
    wyoming_port: int | None = _variable(
        "WYOMING_PORT", None, integer(0, 65535), "port for Home Assistant's Wyoming protocol, which has no keys"
    )
    max_sessions: int = _variable(
        "MAX_SESSIONS", 64, integer(1, 4096), "live sessions at once, those that may be resumed included"
    )
    session_idle_s: float = _variable(
        "SESSION_IDLE_S", 600.0, seconds(1, _DAY_S), "a live session ends when its client sends nothing for so long"
    )
    session_limit_s: float = _variable(
        "SESSION_LIMIT_S", 7200.0, seconds(1, 100 * _DAY_S), "longest live session, seconds"
    )
    session_resume_s: float = _variable(
        "SESSION_RESUME_S", 60.0, seconds(0, _DAY_S), "time in which a cut live session can be resumed; `0`: none"
    )
    salad_machine_id: str | None = _variable("SALAD_MACHINE_ID", None, _text, "sent back as `X-Salad-Machine-ID`")
    salad_container_group_id: str | None = _variable(
        "SALAD_CONTAINER_GROUP_ID", None, _text, "sent back as `X-Salad-Container-Group-ID`"
    )

    def __post_init__(self) -> None:
        """Set the default of `stride_length_s`. Raise SettingsError for values that do not fit together."""
        if self.stride_length_s is None:
            object.__setattr__(self, "stride_length_s", self.chunk_length_s / 6)
        if self.stride_length_s > self.chunk_length_s / 2:
            expected = f"at most half of CHUNK_LENGTH_S={self.chunk_length_s:g}"
            raise SettingsError("STRIDE_LENGTH_S", self.stride_length_s, expected)

        is_local = self.model_id.startswith("pkg:") or os.path.isdir(self.model_id)
        is_pinned = is_local or COMMIT.fullmatch(self.model_revision or "")
        if self.trust_remote_code and not is_pinned:
            expected = "MODEL_REVISION to be a commit of 40 digits, so that no other code runs than was read"
            raise SettingsError("TRUST_REMOTE_CODE", 1, expected)

        bucket = ("bucket_endpoint_url", "bucket_name", "bucket_access_key_id", "bucket_secret_access_key")
        missing = [name.upper() for name in bucket if getattr(self, name) is None]
        if 0 < len(missing) < len(bucket):
            variables = ", ".join(name.upper() for name in bucket)
            raise SettingsError(missing[0], "", f"a value, since others of {variables} have one")

    def check_window(self, longest_s: float) -> None:
        """Raise SettingsError if windows may be longer than `longest_s`, the model's limit in seconds."""
        if self.chunk_length_s > longest_s:
            expected = f"at most {longest_s:g}, the longest window that {self.model_id} takes"
            raise SettingsError("CHUNK_LENGTH_S", self.chunk_length_s, expected)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Return the settings from environment variables. Raises SettingsError for the first unusable value."""
        values = {}
        for setting in fields(cls):
            name = setting.metadata["name"]
            if raw := environ.get(name, "").strip():
                try:
                    values[setting.name] = setting.metadata["parse"](raw)
                except Unexpected as exc:
                    shown = raw if setting.repr else "…"  # no secret
                    raise SettingsError(name, shown, str(exc)) from None
        return cls(**values)
