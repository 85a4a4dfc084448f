"""Choose the engine for a model's folder: our own for Whisper, that of the Hub's models for all others.

Only the chosen engine's modules are imported: a Whisper process knows nothing of `transformers`.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from handler.engine.json_file import read_json
from handler.schema.window import Engine
from handler.settings import Settings
from handler.startup.model_locator import BAKED
from handler.timeline import Timeline
from handler.whisper.checkpoint.conversion_cache import ConversionCache

LoadEngine = Callable[[Path, Settings, ConversionCache | None, Timeline], Engine]
WHISPER = "whisper"  # the model_type of its checkpoints


def model_type(folder: Path) -> str:
    """Return the type of the model in a folder: what its configuration states, or else that of Whisper.

    Checkpoints of openai-whisper and CTranslate2 state none. What is wrong with a folder is left for the loader of
    Whisper to report.
    """
    with suppress(OSError, ValueError):
        return str(read_json(folder / "config.json").get("model_type", WHISPER))
    return WHISPER


def is_whisper(folder: Path) -> bool:
    """Return whether a folder may hold a Whisper checkpoint, of whatever layout."""
    return model_type(folder) == WHISPER


def import_engine(folder: Path | None) -> LoadEngine:
    """Import the engine for the model in `folder`, and return the function that loads it.

    Without a folder, the model has yet to be downloaded, and Whisper's modules are imported, which most models need.
    """
    if folder is None or is_whisper(folder):
        from handler.whisper.loading import load_engine

        return load_engine
    from handler.hub.loading import load_engine as load_hub_engine

    kind = model_type(folder)

    def load(folder: Path, settings: Settings, _: ConversionCache | None, timeline: Timeline) -> Engine:
        return load_hub_engine(folder, kind, settings, timeline, kept_in=(BAKED, settings.cache_dir))

    return load
