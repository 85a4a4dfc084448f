"""The configuration of a session of OpenAI's realtime API. Knows no connection and no audio.

Every field of a transcription session is supported, or refused with an error that names it. A rate of 16000 is an
extension. Source: platform.openai.com/docs/api-reference/realtime-client-events/session; the types of the public
`openai` package.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from handler.errors import InvalidRequest, ModelNotFound
from handler.live.live_session import LiveConfig
from handler.live.sample_stream import A_LAW, MU_LAW, PCM16
from handler.live.stable_text import Agreement, Tier
from handler.live.turn_detection import TurnDetection
from handler.schema.capabilities import Capabilities
from handler.schema.model_names import check_model
from handler.schema.options import TELEPHONE_RATE, Options
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from handler.validators import Unexpected, boolean, number, one_of, short_repr, string
from local_server.live.realtime_errors import RefusedEvent

LOGPROBS = "item.input_audio_transcription.logprobs"
RATES = (24_000, 16_000)  # Hz, of 16-bit samples
FORMATS = {"audio/pcm": PCM16, "audio/pcmu": MU_LAW, "audio/pcma": A_LAW}
MAX_TEXT_CHARS = 4_096  # more than a model reads
MAX_PADDING_MS, MAX_SILENCE_MS = 5_000, 10_000
# How much passes have to agree until a word is told, by the delay that this takes.
DELAYS = {
    "minimal": Agreement((Tier(0.25, 0.7), Tier(0.5, 0.0))),
    "low": Agreement(),
    "medium": Agreement((Tier(0.25, 0.95), Tier(0.5, 0.7), Tier(1.1, 0.0))),
    "high": Agreement((Tier(1.1, 0.0),)),
    "xhigh": Agreement(()),
}
DEFAULT_DELAY = "low"
_TEXTS = ("language", "prompt")
_LISTS = ("languages", "keywords")
DIARIZING = "gpt-4o-transcribe-diarize"  # the name of OpenAI's model that tells speakers apart


@dataclass(frozen=True, slots=True)
class RealtimeConfig:
    """The configuration of one session. `transcription` holds the fields that were given."""

    format: str = "audio/pcm"
    rate: int = RATES[0]
    transcription: Mapping[str, Any] | None = None
    detection: TurnDetection | None = TurnDetection()
    logprobs: bool = False

    def updated(self, session: object, settings: Settings, pipeline: Pipeline) -> "RealtimeConfig":
        """Return the configuration with the fields of a `session.update`. Raises RefusedEvent."""
        capabilities = pipeline.capabilities
        fields = _object(session, "session", ("type", "include", "audio"))
        if fields.get("type") != "transcription":
            _refuse("session.type", "transcription", fields.get("type"))
        config = self
        if "include" in fields:
            config = replace(config, logprobs=_include(fields["include"], capabilities))
        audio = _object(fields.get("audio", {}), "session.audio", ("input",))
        names = ("format", "noise_reduction", "transcription", "turn_detection")
        given = _object(audio.get("input", {}), "session.audio.input", names)
        if "format" in given:
            format, rate = _format(given["format"], self)
            config = replace(config, format=format, rate=rate)
        if given.get("noise_reduction") is not None:
            _refuse("session.audio.input.noise_reduction", "null: this server reduces no noise", "an object")
        if "transcription" in given:
            config = replace(config, transcription=_transcription(given["transcription"], self.transcription, settings))
        if "turn_detection" in given:
            config = replace(config, detection=_detection(given["turn_detection"], self.detection))
        try:
            pipeline.check_live(config.live().options)
        except InvalidRequest as exc:
            raise _refused_option(exc, config.transcription or {}) from None
        return config

    def live(self) -> LiveConfig:
        """Return how the session's turns are found and decoded. Raises RefusedEvent."""
        given = self.transcription or {}
        values = {
            "language": given.get("language"),
            "languages": given.get("languages"),
            "prompt": given.get("prompt"),
            "hotwords": ", ".join(given.get("keywords") or ()) or None,
            "diarize": given.get("diarize", given.get("model") == DIARIZING),
        }
        try:
            return LiveConfig(Options.parse(values), self.detection, DELAYS[given.get("delay") or DEFAULT_DELAY])
        except InvalidRequest as exc:
            raise _refused_option(exc, given) from None

    def as_dict(self, model: str) -> dict[str, Any]:
        """Return the configuration as events hold it, with all defaults."""
        format: dict[str, Any] = {"type": self.format}
        if self.format == "audio/pcm":
            format["rate"] = self.rate
        transcription = {"model": model, "language": None, "prompt": None, **(self.transcription or {})}
        turn_detection = None
        if self.detection is not None:
            turn_detection = {
                "type": "server_vad",
                "threshold": self.detection.threshold,
                "prefix_padding_ms": round(self.detection.prefix_padding_s * 1000),
                "silence_duration_ms": round(self.detection.silence_duration_s * 1000),
            }
        audio_input = {
            "format": format,
            "transcription": transcription,
            "noise_reduction": None,
            "turn_detection": turn_detection,
        }
        return {
            "type": "transcription",
            "object": "realtime.transcription_session",
            "audio": {"input": audio_input},
            "include": [LOGPROBS] if self.logprobs else None,
        }


def _refused_option(exc: InvalidRequest, given: Mapping[str, Any]) -> RefusedEvent:
    field = "keywords" if exc.field == "hotwords" else exc.field
    if field == "diarize" and field not in given:
        field = "model"  # whose name asks for it
    return RefusedEvent("invalid_value", exc.message, f"session.audio.input.transcription.{field}")


def _refuse(param: str, expected: str, received: object) -> None:
    raise RefusedEvent("invalid_value", f"{param} must be {expected}; got {short_repr(received)}", param)


def _object(value: object, param: str, names: tuple[str, ...]) -> Mapping[str, Any]:
    """Return a value that must be an object with some of the fields `names`."""
    if not isinstance(value, dict):
        _refuse(param, "an object", value)
    assert isinstance(value, dict)
    for name in value:
        if name not in names:
            field = f"{param}.{str(name)[:60]}"
            expected = ", ".join(names)
            raise RefusedEvent("unknown_parameter", f"{field} is not known here; expected one of {expected}", field)
    return value


def _parsed(fields: Mapping[str, Any], name: str, param: str, parse: Callable[[object], Any], default: Any) -> Any:
    """Return the value of a field, or the default if there is none. Raises RefusedEvent."""
    if fields.get(name) is None:
        return default
    try:
        return parse(fields[name])
    except Unexpected as exc:
        _refuse(f"{param}.{name}", str(exc), fields[name])


def _include(value: object, capabilities: Capabilities) -> bool:
    if value is not None and (not isinstance(value, list) or any(item != LOGPROBS for item in value)):
        _refuse("session.include", f"a list of nothing but {LOGPROBS}", value)
    if value and not capabilities.token_logprobs:
        raise RefusedEvent(
            "invalid_value", "session.include must be empty: the model tells no tokens", "session.include"
        )
    return bool(value)


def _format(value: object, current: RealtimeConfig) -> tuple[str, int]:
    """Return the name of a format and its rate, which is the current one if it is left out and the format the same."""
    param = "session.audio.input.format"
    fields = _object(value, param, ("type", "rate"))
    format = _parsed(fields, "type", param, one_of(tuple(FORMATS)), None)
    if format is None:
        _refuse(f"{param}.type", f"one of {', '.join(FORMATS)}", None)
    allowed = RATES if format == "audio/pcm" else (TELEPHONE_RATE,)
    rate = fields.get("rate", current.rate if format == current.format else allowed[0])
    if rate not in allowed or isinstance(rate, bool):
        _refuse(f"{param}.rate", " or ".join(str(each) for each in allowed), rate)
    return str(format), int(rate)


def _transcription(value: object, current: Mapping[str, Any] | None, settings: Settings) -> Mapping[str, Any]:
    """Return the fields that are given now or were before. One that is null now is as if it had never been given.

    One language takes the place of several, and several that of one.
    """
    param = "session.audio.input.transcription"
    if value is None:
        raise RefusedEvent("invalid_value", f"{param} must be an object: this server does nothing else", param)
    fields = _object(value, param, ("model", "delay", "diarize", *_TEXTS, *_LISTS))
    if (model := _parsed(fields, "model", param, string, None)) is not None:
        try:
            check_model(model, settings.model_id, settings.model_aliases)
        except ModelNotFound as exc:
            raise RefusedEvent("invalid_model", str(exc), f"{param}.model") from None
    _parsed(fields, "delay", param, one_of(tuple(DELAYS)), None)
    _parsed(fields, "diarize", param, boolean, None)
    for name in _TEXTS:
        _parsed(fields, name, param, _short, None)
    for name in _LISTS:
        _parsed(fields, name, param, _strings, None)
    kept = dict(current or {})
    for name, other in (("language", "languages"), ("languages", "language")):
        if fields.get(name):
            kept.pop(other, None)
    return {name: each for name, each in {**kept, **fields}.items() if each is not None}


def _short(value: object) -> str:
    text = string(value)
    if len(text) > MAX_TEXT_CHARS:
        raise Unexpected(f"at most {MAX_TEXT_CHARS} characters")
    return text


def _strings(value: object) -> list[str]:
    if not isinstance(value, list):
        raise Unexpected("a list of strings")
    texts = [string(item) for item in value]
    if sum(map(len, texts)) > MAX_TEXT_CHARS:
        raise Unexpected(f"at most {MAX_TEXT_CHARS} characters in all")
    return texts


def _detection(value: object, current: TurnDetection | None) -> TurnDetection | None:
    param = "session.audio.input.turn_detection"
    if value is None:
        return None
    numbers = ("threshold", "prefix_padding_ms", "silence_duration_ms")
    foreign = ("create_response", "interrupt_response", "idle_timeout_ms")  # of conversations
    fields = _object(value, param, ("type", *numbers, *foreign))
    if fields.get("type") != "server_vad":
        _refuse(f"{param}.type", "server_vad, or turn_detection null", fields.get("type"))
    for name in foreign:
        if fields.get(name):
            _refuse(f"{param}.{name}", "left out in a transcription session", fields[name])
    base = current or TurnDetection()
    padding_ms = _parsed(fields, "prefix_padding_ms", param, number(0, MAX_PADDING_MS), base.prefix_padding_s * 1000)
    silence_ms = _parsed(
        fields, "silence_duration_ms", param, number(50, MAX_SILENCE_MS), base.silence_duration_s * 1000
    )
    threshold = _parsed(fields, "threshold", param, number(0.01, 1), base.threshold)
    return TurnDetection(threshold, padding_ms / 1000, silence_ms / 1000)
