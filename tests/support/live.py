"""Live sessions whose audio comes as fast as it is decoded, so that passes do not depend on the machine's speed."""

import asyncio
from collections.abc import Sequence

import numpy as np

from handler.live.events import Completed, Hypothesis, LiveEvent
from handler.live.latency import LiveLatency
from handler.live.live_session import LiveConfig, LiveSession
from handler.schema.options import Options
from handler.schema.window import SAMPLE_RATE
from handler.transcription.pipeline import Pipeline
from tests.support.speech import Samples

PIECE = SAMPLE_RATE // 10
OPTIONS = Options(timestamps="word")


class Listener:
    """A session, and what it was told."""

    def __init__(self, pipeline: Pipeline, config: LiveConfig | None = None) -> None:
        self.events: list[LiveEvent] = []
        self.latency = LiveLatency()
        self.pipeline = pipeline
        self.session = LiveSession(pipeline.resources, config or LiveConfig(OPTIONS), self.latency, self.events.append)

    async def hear(self, samples: Samples) -> None:
        """Pass samples on piece by piece, each once what comes before is decoded."""
        for start in range(0, len(samples), PIECE):
            await self.session.push(samples[start : start + PIECE])
            await self.idle()

    async def idle(self) -> None:
        """Wait until the engine has nothing to do."""
        for _ in range(3):  # a task that was woken submits its window in the next rounds of the loop
            await asyncio.sleep(0)
        while True:
            stats = self.pipeline.stats()
            if not stats.waiting_windows and not stats.active_sequences:
                break
            await asyncio.sleep(0.001)
        for _ in range(3):
            await asyncio.sleep(0)

    def kinds(self) -> list[str]:
        """Return the kinds of events, without those that tell text."""
        return [type(event).__name__ for event in self.events if not isinstance(event, Hypothesis)]

    def deltas(self, turn: int = 0) -> list[str]:
        """Return what was told of a turn, piece by piece."""
        events = [event for event in self.events if isinstance(event, Hypothesis)]
        return [event.delta for event in events if event.turn == turn and event.delta]

    def texts(self) -> list[str]:
        """Return the complete texts."""
        return [event.text for event in self.events if isinstance(event, Completed)]


def quiet(seconds: float) -> Samples:
    """Return a silence that is not digital: noise at −80 dBFS."""
    count = round(seconds * SAMPLE_RATE)
    return (1e-4 * np.random.default_rng(0).standard_normal(count)).astype(np.float32)


def joined(*parts: Samples) -> Samples:
    """Return samples one after another."""
    return np.concatenate(parts)


def words(texts: Sequence[str]) -> str:
    """Return texts as one, separated by spaces."""
    return " ".join(texts)
