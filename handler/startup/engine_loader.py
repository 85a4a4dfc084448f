"""Choose the engine for a model's folder: our own for Whisper, that of the Hub's models for all others.

Only the chosen engine's modules are imported: a Whisper process knows nothing of `transformers`.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from handler.schema.window import Engine
from handler.settings import Settings
from handler.timeline import Timeline
from handler.whisper.checkpoint.conversion_cache import ConversionCache

LoadEngine = Callable[[Path, Settings, ConversionCache | None, Timeline], Engine]
_MAX_CONFIG_BYTES = 4 * 1024**2


def is_whisper(folder: Path) -> bool:
    """Return whether a folder may hold a Whisper checkpoint, of whatever layout.

    Any other speech model has a configuration that says so. What is wrong with a folder is left for the engine's loader
    to report.
    """
    with suppress(OSError, ValueError, RecursionError), (folder / "config.json").open("rb") as file:
        config = json.loads(file.read(_MAX_CONFIG_BYTES))
        if isinstance(config, dict):
            return str(config.get("model_type", "whisper")) == "whisper"
    return True


def import_engine(folder: Path | None) -> LoadEngine:
    """Import the engine for the model in `folder`, and return the function that loads it.

    Without a folder, the model has yet to be downloaded, and Whisper's modules are imported, which most models need.
    """
    if folder is None or is_whisper(folder):
        from handler.whisper.loading import load_engine

        return load_engine
    from handler.hub.loading import load_engine as load_hub_engine

    return lambda folder, settings, _conversions, timeline: load_hub_engine(folder, settings, timeline)
