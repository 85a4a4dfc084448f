"""Read the query of Deepgram's `/v1/listen`. Knows no connection and no audio.

Every option of Deepgram's is supported, or refused with an error that names it; one that would switch off what this
server has not is the same as none. Source: developers.deepgram.com/reference/speech-to-text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from handler.errors import InvalidRequest
from handler.live.sample_stream import A_LAW, MU_LAW, PCM16
from handler.live.turn_detection import TurnDetection
from handler.schema.model_names import check_model
from handler.schema.options import Options
from handler.settings import Settings
from handler.validators import boolean, check, integer, number, one_of, short_repr

ENCODINGS = {"linear16": PCM16, "mulaw": MU_LAW, "alaw": A_LAW}
# Speech with shorter pauses is no turn of its own: what is decoded by itself is decoded worse the shorter it is.
MIN_ENDPOINTING_S, DEFAULT_ENDPOINTING_MS = 0.2, "300"
REDACTED = {"true": "digits", "numbers": "digits", "pci": "card"}  # by Deepgram's names
DEFAULT_UTTERANCE_GAP_S = 0.8
DIARIZE_MODELS = ("latest", "v1")  # all of which are the one that this server has
_BOTH = ("model", "version", "language", "encoding", "sample_rate", "channels", "punctuate", "smart_format", "diarize")
_DIARIZE_MODEL = "diarize_model"  # which asks for it by itself
_LISTS = ("keyterm", "keywords", "tag", "extra")
_LIVE = ("interim_results", "endpointing", "utterance_end_ms", "vad_events")
_FILE = ("detect_language", "multichannel", "paragraphs", "utterances", "utt_split")
_FILE_LISTS = ("redact", "replace")
# That this server has not; `false` is what it does.
_MISSING = (
    *("detect_entities", "dictation", "filler_words", "intents", "measurements", "no_delay", "numerals"),
    *("profanity_filter", "sentiment", "summarize", "topics"),
)


@dataclass(frozen=True, slots=True)
class ListenRequest:
    """What a client asks for. Lengths are in seconds."""

    options: Options
    encoding: str | None = None  # of samples without a header
    rate: int | None = None  # Hz
    is_punctuated: bool = False
    interim_results: bool = False
    detection: TurnDetection | None = None
    utterance_end_s: float | None = None
    vad_events: bool = False
    detects_language: bool = False
    paragraphs: bool = False
    utterance_gap_s: float | None = None
    tags: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)


def parse_listen(query: Sequence[tuple[str, str]], settings: Settings, *, is_live: bool) -> ListenRequest:
    """Parse the fields of a query. Raises InvalidRequest, or ModelNotFound if another model is asked for."""
    single, lists = _collect(query, is_live=is_live)
    if "model" in single:
        check_model(single["model"], settings.model_id, settings.model_aliases)
    if single.get("version", "latest") != "latest":
        raise InvalidRequest(f"version must be latest; got {short_repr(single['version'])}", "version")
    flags = _flags(single, is_live=is_live)
    encoding = single.get("encoding")
    if encoding is not None:
        encoding = ENCODINGS[check("encoding", encoding, one_of(tuple(ENCODINGS)))]
    rate = check("sample_rate", single["sample_rate"], integer(4_000, 192_000)) if "sample_rate" in single else None
    if (rate is None) != (encoding is None):
        raise InvalidRequest(
            "sample_rate and encoding must come together", "sample_rate" if rate is None else "encoding"
        )
    channels = check("channels", single.get("channels", "1"), integer(1, 20))
    values: dict[str, Any] = {
        "language": single.get("language"),
        "diarize": flags["diarize"],
        "hotwords": ", ".join([*lists["keyterm"], *(word.partition(":")[0] for word in lists["keywords"])]) or None,
    }
    common: dict[str, Any] = {
        "encoding": encoding,
        "rate": rate,
        "is_punctuated": flags["punctuate"] or flags["smart_format"],
        "tags": tuple(lists["tag"]),
        "extra": dict(_pair("extra", item) for item in lists["extra"]),
    }
    if is_live:
        return _live(single, flags, channels, Options.parse(values), common)
    if encoding is not None:
        values |= {"input_format": encoding, "sample_rate": rate, "input_channels": channels}
    values |= {
        "timestamps": "word",
        "channels": "split" if flags["multichannel"] else "mix",
        "replace": dict(_pair("replace", item) for item in lists["replace"]) or None,
        "redact": [REDACTED[check("redact", item, one_of(tuple(REDACTED)))] for item in lists["redact"]] or None,
    }
    if flags["detect_language"] and values["language"] is not None:
        raise InvalidRequest("language must come without detect_language", "language")
    gap_s = check("utt_split", single.get("utt_split", str(DEFAULT_UTTERANCE_GAP_S)), number(0.01, 1000))
    return ListenRequest(
        Options.parse(values),
        **common,
        detects_language=flags["detect_language"],
        paragraphs=flags["paragraphs"] or flags["smart_format"],
        utterance_gap_s=gap_s if flags["utterances"] else None,
    )


def _live(
    single: Mapping[str, str], flags: Mapping[str, bool], channels: int, options: Options, common: Mapping[str, Any]
) -> ListenRequest:
    if common["encoding"] is None:
        raise InvalidRequest(f"encoding must be there, as one of {', '.join(ENCODINGS)}", "encoding")
    if channels != 1:
        raise InvalidRequest(f"channels must be 1; got {channels}", "channels")
    detection = None
    if single.get("endpointing") != "false":
        endpointing_ms = check("endpointing", single.get("endpointing", DEFAULT_ENDPOINTING_MS), number(0, 10_000))
        detection = TurnDetection(silence_duration_s=max(MIN_ENDPOINTING_S, endpointing_ms / 1000))
    utterance_end_s = None
    if "utterance_end_ms" in single:
        utterance_end_s = check("utterance_end_ms", single["utterance_end_ms"], number(500, 10_000)) / 1000
    return ListenRequest(
        options,
        **common,
        interim_results=flags["interim_results"],
        detection=detection,
        utterance_end_s=utterance_end_s,
        vad_events=flags["vad_events"],
    )


def _flags(single: Mapping[str, str], *, is_live: bool) -> dict[str, bool]:
    """Return what may be switched on, and whether it is."""
    own = ("interim_results", "vad_events") if is_live else ("detect_language", "multichannel", "paragraphs")
    names = ("punctuate", "smart_format", "diarize", *own, *(() if is_live else ("utterances",)))
    flags = {name: check(name, single.get(name, "false"), boolean) for name in names}
    if _DIARIZE_MODEL in single:
        check(_DIARIZE_MODEL, single[_DIARIZE_MODEL], one_of(DIARIZE_MODELS))
        flags["diarize"] = True
    return flags


def _collect(query: Sequence[tuple[str, str]], *, is_live: bool) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the fields that have one value, and those that may have several."""
    names = (*_BOTH, _DIARIZE_MODEL, *(_LIVE if is_live else _FILE))
    lists: dict[str, list[str]] = {name: [] for name in (*_LISTS, *(() if is_live else _FILE_LISTS))}
    single: dict[str, str] = {}
    for name, value in query:
        if name in lists:
            lists[name].append(value)
        elif name in names:
            if name in single:
                raise InvalidRequest(f"{name} must be given once", name)
            single[name] = value
        elif name == "mip_opt_out":  # nothing is kept for training, whatever it says
            check(name, value, boolean)
        elif name not in (*_MISSING, *_FILE, *_FILE_LISTS, *_LIVE) or value.lower() != "false":
            if name in (*_FILE, *_FILE_LISTS, *_LIVE):
                raise InvalidRequest(f"{name} is for {'files' if is_live else 'live speech'} alone", name)
            expected = ", ".join(sorted((*names, *lists)))
            raise InvalidRequest(f"{name[:60]} is not known here; expected one of {expected}", name[:60])
    return single, lists


def _pair(name: str, item: str) -> tuple[str, str]:
    key, colon, value = item.partition(":")
    if not key or (not colon and name == "extra"):
        raise InvalidRequest(f"{name} must be two texts with a colon between them; got {short_repr(item)}", name)
    return key, value
