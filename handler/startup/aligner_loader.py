"""Give an engine without word times the Whisper model that ALIGN_MODEL names, which times them."""

from pathlib import Path

from handler.engine.aligned_engine import AlignedEngine
from handler.errors import ModelUnavailable
from handler.schema.capabilities import Capabilities
from handler.schema.window import Aligner, Engine
from handler.settings import Settings, SettingsError
from handler.startup.engine_loader import is_whisper
from handler.startup.model_locator import find_model
from handler.timeline import Timeline

_ENGLISH = ("en",)


def find_aligner(name: str, settings: Settings) -> Path:
    """Return the folder of the model `name`, which is downloaded if it is not here. Raises ModelUnavailable."""
    try:
        folder = find_model(name, settings.cache_dir)
    except ModelUnavailable as exc:
        raise ModelUnavailable(f"ALIGN_MODEL: {exc.message.removeprefix('MODEL_ID=')}") from exc
    if not is_whisper(folder):
        raise ModelUnavailable(f"ALIGN_MODEL: {name}: expected a Whisper checkpoint")
    return folder


def add_aligner(engine: Engine, folder: Path, settings: Settings, timeline: Timeline) -> AlignedEngine:
    """Return the engine with the Whisper model in `folder` as its aligner.

    Raises SettingsError if the engine has no need of it or speaks more languages than it, and ModelUnavailable,
    OutOfMemory or DeviceLost.
    """
    if engine.capabilities.word_times:
        raise SettingsError("ALIGN_MODEL", settings.align_model, f"no value: {engine.model_id} times its words itself")
    from handler.whisper.loading import load_aligner

    with timeline.span("aligner_loaded"):
        try:
            aligner = load_aligner(folder, settings)
        except ModelUnavailable as exc:
            raise ModelUnavailable(f"ALIGN_MODEL: {exc.message}") from exc
    _check_languages(engine.capabilities, aligner)
    return AlignedEngine(engine, aligner)


def _check_languages(capabilities: Capabilities, aligner: Aligner) -> None:
    """Raise SettingsError if the aligner reads English alone, and the engine is known to write something else."""
    if aligner.languages == _ENGLISH and not set(capabilities.languages) <= set(_ENGLISH):
        languages = ", ".join(capabilities.languages[:9])
        raise SettingsError("ALIGN_MODEL", aligner.model_id, f"a multilingual Whisper, for texts in {languages}")
