"""Parse the form fields of OpenAI's audio API into options. Knows no route and no audio.

Every field of the API's specification is supported, or refused with an error that names the field. Beyond them, a form
may have the options of this server, and `vad_filter`, which is Speaches' name of the option `vad`. Sources:
platform.openai.com/docs/api-reference/audio; speaches-ai/speaches, routers/stt.py.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handler.errors import InvalidRequest
from handler.schema.capabilities import Capabilities
from handler.schema.model_names import check_model
from handler.schema.options import JSON_LIST_OPTIONS, LIST_OPTIONS, Options
from handler.settings import Settings
from handler.validators import boolean, check, number, one_of, string
from local_server.uploads.fields import split_array_name

DIARIZED = "diarized_json"
FORMATS = ("json", "text", "srt", "verbose_json", "vtt", DIARIZED)
GRANULARITIES = ("segment", "word")
# Options that OpenAI's API expresses by routes and fields of its own, or whose result its answers cannot hold.
_OTHERWISE_EXPRESSED = {"task", "language", "timestamps", "format", "prompt", "temperature", "partial", "languages"}
OPTION_FIELDS = tuple(name for name in Options.json_schema() if name not in _OTHERWISE_EXPRESSED)
VAD_FILTER = "vad_filter"
_ARRAY_FIELDS = ("include", "timestamp_granularities", "languages", "keywords", *LIST_OPTIONS, *JSON_LIST_OPTIONS)
_TRANSLATION_FIELDS = {"file", "url", "model", "prompt", "response_format", "temperature", VAD_FILTER, *OPTION_FIELDS}
_TRANSCRIPTION_FIELDS = _TRANSLATION_FIELDS | {"language", "stream", "chunking_strategy", *_ARRAY_FIELDS}
_STRATEGY_PREFIX = "chunking_strategy["  # as in `chunking_strategy[type]`


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """A parsed request to OpenAI's audio API."""

    options: Options
    format: str  # one of FORMATS
    granularities: tuple[str, ...]  # at least one of GRANULARITIES
    stream: bool
    logprobs: bool  # whether the response lists log-probabilities of tokens

    def check(self, capabilities: Capabilities, model_id: str) -> None:
        """Raise InvalidRequest if the response is to have words or their tokens, and the model tells none."""
        if "word" in self.granularities and not capabilities.word_times:
            field = "timestamp_granularities"
            raise InvalidRequest(f"{field} must be left out: {model_id} tells no times of words", field)
        if self.logprobs and not capabilities.token_logprobs:
            raise InvalidRequest(f"include must be left out: {model_id} tells no tokens of words", "include")


def parse_openai_request(fields: Sequence[tuple[str, str]], task: str, settings: Settings) -> OpenAIRequest:
    """Parse the fields of a form, which are pairs of a name and a value.

    `task` is `transcribe` or `translate`. Raises InvalidRequest, or ModelNotFound if the form's model is not loaded.
    """
    values = _collect(fields, task)
    _check_model(values, settings)
    format = check("response_format", values.get("response_format") or "json", one_of(FORMATS))
    granularities = _choices("timestamp_granularities", GRANULARITIES, values)
    if granularities and format != "verbose_json":
        raise InvalidRequest(
            "timestamp_granularities must come with response_format verbose_json", "timestamp_granularities"
        )
    include = _choices("include", ("logprobs",), values)
    if include and format != "json":
        raise InvalidRequest("include must come with response_format json", "include")
    stream = check("stream", values.get("stream") or "false", boolean)
    if stream and format not in ("json", "text", DIARIZED):
        raise InvalidRequest(f"stream must come with response_format json, text or {DIARIZED}", "stream")
    if format == DIARIZED:
        if task != "transcribe" or not check("diarize", values.get("diarize") or "true", boolean):
            expected = f"response_format {DIARIZED} must come with a transcription, and not with diarize=false"
            raise InvalidRequest(expected, "response_format")
        values["diarize"] = "true"
    needs_words = "word" in granularities or bool(include)  # a token's log-probability is that of a word's token
    options = _options(values, task, "word" if needs_words else "segment")
    return OpenAIRequest(options, format, granularities or ("segment",), stream, bool(include))


def _collect(fields: Sequence[tuple[str, str]], task: str) -> dict[str, Any]:
    """Return the values of a form's fields by name.

    The value of an array field, whose name may end with `[]` or an index such as `[0]`, is a list. The value of
    `chunking_strategy` is a dictionary if it comes as fields such as `chunking_strategy[type]`. All remaining values
    are strings. Raises InvalidRequest.
    """
    supported = _TRANSCRIPTION_FIELDS if task == "transcribe" else _TRANSLATION_FIELDS
    values: dict[str, Any] = {}
    strategy: dict[str, str] = {}
    for field, value in sorted(fields, key=_item_index):
        if field.startswith(_STRATEGY_PREFIX) and task == "transcribe":
            strategy[field.removeprefix(_STRATEGY_PREFIX).removesuffix("]")] = value
            values["chunking_strategy"] = strategy
            continue
        name, index = split_array_name(field)
        if name not in supported:
            raise InvalidRequest(f"{field[:60]} is not known here; expected one of {', '.join(sorted(supported))}")
        if name in _ARRAY_FIELDS:
            values.setdefault(name, []).extend(_array_items(value))
        elif index is not None:
            raise InvalidRequest(f"{name} must be one value, not an array", name)
        elif name in values:
            raise InvalidRequest(f"{name} must be given once", name)
        else:
            values[name] = value
    return values


def _item_index(field: tuple[str, str]) -> int:
    """Return the index of the array's item that a field is, or 0. Fields with equal indices keep their order."""
    return split_array_name(field[0])[1] or 0


def _array_items(value: str) -> list[str]:
    """Return the items of `value`, a single item or a JSON array of items. Return [] if `value` is empty."""
    if value.startswith("["):
        try:
            return [str(item) for item in json.loads(value)]
        except (ValueError, RecursionError):
            return [value]
    return [value] if value else []


def _check_model(values: Mapping[str, Any], settings: Settings) -> None:
    if "model" not in values:
        aliases = ", ".join(settings.model_aliases)
        raise InvalidRequest(f"model must be there: {settings.model_id}, or one of {aliases}", "model")
    check_model(values["model"], settings.model_id, settings.model_aliases)


def _choices(name: str, choices: tuple[str, ...], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the items of the array field `name`. Raises InvalidRequest if an item is not in `choices`."""
    return tuple(check(name, item, one_of(choices)) for item in values.get(name, ()))


def _options(values: Mapping[str, Any], task: str, timestamps: str) -> Options:
    languages = list(values.get("languages", ()))
    if values.get("language"):
        languages.append(values["language"])
    temperature = values.get("temperature")
    own_options = {name: values[name] for name in OPTION_FIELDS if values.get(name)}
    own_options |= {name: ",".join(own_options[name]) for name in LIST_OPTIONS if name in own_options}
    return Options.parse(
        {
            **own_options,
            "task": task,
            "language": languages[0] if len(set(languages)) == 1 else None,
            "languages": languages if len(set(languages)) > 1 else None,
            "prompt": values.get("prompt"),
            "temperature": check("temperature", temperature, number(0, 1)) if temperature else None,
            "timestamps": timestamps,
            "hotwords": _hotwords(values),
            "vad": _vad(values),
        }
    )


def _hotwords(values: Mapping[str, Any]) -> str:
    """Return the items of `hotwords`, this server's and Speaches' field, and of `keywords`, OpenAI's, in one text."""
    return ", ".join(check(name, item, string) for name in ("hotwords", "keywords") for item in values.get(name, ()))


def _vad(values: Mapping[str, Any]) -> bool:
    """Return whether to leave out what is not speech, which `vad` or `vad_filter` may say. The default is True."""
    _check_strategy(values.get("chunking_strategy"))
    given = [check(name, values[name], boolean) for name in ("vad", VAD_FILTER) if values.get(name)]
    if len(set(given)) > 1:
        raise InvalidRequest(f"{VAD_FILTER} and vad are the same; got different values", VAD_FILTER)
    return given[0] if given else True


def _check_strategy(strategy: object) -> None:
    """Raise InvalidRequest unless the chunking strategy is supported. A request cannot set thresholds of speech."""
    if strategy in (None, "", "auto"):
        return
    if isinstance(strategy, str):
        try:
            strategy = json.loads(strategy)
        except (ValueError, RecursionError):
            strategy = None
    if strategy != {"type": "server_vad"}:
        raise InvalidRequest(
            "chunking_strategy must be auto, or server_vad without any of its thresholds", "chunking_strategy"
        )
