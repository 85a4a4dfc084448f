"""Give an engine without word times the Whisper model that ALIGN_MODEL names, which times them."""

from pathlib import Path

from handler.engine.aligned_engine import AlignedEngine
from handler.errors import ModelUnavailable
from handler.schema.capabilities import Capabilities
from handler.schema.window import Aligner, Engine
from handler.settings import Settings, SettingsError
from handler.startup.engine_loader import is_whisper
from handler.startup.model_locator import find_local, find_model, named_by
from handler.timeline import Timeline

_ENGLISH = ("en",)


def find_local_aligner(settings: Settings) -> Path | None:
    """Return the folder of the aligner on this machine, or None if it is not here or none is wanted.

    Raises ModelUnavailable if its name can be that of no model.
    """
    if settings.align_model is None:
        return None
    with named_by("ALIGN_MODEL"):
        return find_local(settings.align_model, settings.cache_dir)


def add_aligner(
    engine: Engine, folder: Path | None, settings: Settings, timeline: Timeline
) -> tuple[AlignedEngine, Path]:
    """Return the engine with the Whisper model in `folder` as its aligner, and the folder.

    If `folder` is None, the model is downloaded. Raises SettingsError if the engine has no need of it or may write
    languages that it does not read, and ModelUnavailable, OutOfMemory or DeviceLost.
    """
    assert settings.align_model is not None
    if engine.capabilities.word_times:
        raise SettingsError("ALIGN_MODEL", settings.align_model, f"no value: {engine.model_id} times its words itself")
    from handler.whisper.loading import load_aligner

    with named_by("ALIGN_MODEL"), timeline.span("aligner_loaded"):
        folder = folder or find_model(settings.align_model, settings.cache_dir)
        if not is_whisper(folder):
            raise ModelUnavailable(f"{settings.align_model}: expected a Whisper checkpoint")
        aligner = load_aligner(folder, settings)
    _check_languages(engine.capabilities, aligner)
    return AlignedEngine(engine, aligner), folder


def _check_languages(capabilities: Capabilities, aligner: Aligner) -> None:
    """Raise SettingsError if the aligner reads English alone, and the engine may write something else."""
    if aligner.languages == _ENGLISH and capabilities.languages != _ENGLISH:
        languages = ", ".join(capabilities.languages[:9]) or "languages that the checkpoint does not state"
        expected = f"a multilingual Whisper, for texts in {languages} (MODEL_LANGUAGE=en where they are English)"
        raise SettingsError("ALIGN_MODEL", aligner.model_id, expected)
