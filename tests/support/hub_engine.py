"""Run windows through an engine of the Hub's models, without a runner."""

from collections.abc import Sequence
from pathlib import Path

from handler.hub.engine import HubEngine
from handler.hub.loading import load_engine
from handler.schema.window import Window, WindowResult
from handler.startup.engine_loader import model_type
from tests.conftest import settings


def engine_for(folder: Path, **changes: object) -> HubEngine:
    """Return an engine for the model in a folder, in float32 on the processor."""
    return load_engine(folder, model_type(folder), settings(model_id=str(folder), **changes))


def decode(engine: HubEngine, windows: Sequence[Window]) -> list[WindowResult]:
    """Return the results of windows that are admitted together."""
    engine.admit(windows)
    results: dict[Window, WindowResult] = {}
    while len(results) < len(windows):
        results |= dict(engine.advance())
    return [results[window] for window in windows]


def text_of(result: WindowResult) -> str:
    return "".join(segment.text for segment in result.segments).strip()
