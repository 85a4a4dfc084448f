"""The names under which a request may ask for the loaded model. Pure functions. Knows no model and no request."""

from collections.abc import Iterable

from handler.errors import AsrError, ModelNotFound
from handler.validators import short_repr

_PREFIXES = ("faster-distil-whisper-", "faster-whisper-", "whisper-")
_SHORT_NAMES = {"large-v3": "large", "large-v3-turbo": "turbo"}


def model_names(model_id: str, aliases: Iterable[str] = ()) -> set[str]:
    """Return every name under which a request may ask for the model `model_id`.

    These are the id, the part of the id after the slash, the model's size such as large-v3-turbo, the short name of
    that size such as turbo, and the aliases.
    """
    last_part = model_id.rpartition("/")[2]
    size = next((last_part.removeprefix(prefix) for prefix in _PREFIXES if last_part.startswith(prefix)), last_part)
    if last_part.startswith("faster-distil-whisper-"):
        size = f"distil-{size}"
    return {model_id, last_part, size, _SHORT_NAMES.get(size, size), *aliases}


def check_model(name: str, model_id: str, aliases: Iterable[str], error: type[AsrError] = ModelNotFound) -> None:
    """Raise `error` if `name` is not a name of the loaded model, whose id is `model_id`."""
    names = model_names(model_id, aliases)
    if name not in names:
        expected = f"this worker has {model_id} (MODEL_ID), and expected one of {', '.join(sorted(names))}"
        raise error(f"model {short_repr(name)} is not loaded; {expected}", "model")
