"""An engine that hears nothing and says where each window begins."""

import threading
from collections.abc import Callable, Collection, Sequence

from handler.errors import OutOfMemory
from handler.schema.transcript import Evidence, Segment
from handler.schema.window import DecodingParams, Window, WindowResult


class FakeEngine:
    """Answers each window with its place; can be held, and made to fail."""

    max_batch_size = 2
    encode_batch_size = 2
    model_id = "fake"
    device_name = "none"
    longest_window_s = 30.0
    languages: tuple[str, ...] = ("en",)
    detects_language = False
    text_tokens = 50_256

    def __init__(self) -> None:
        self.running = list[Window]()
        self.dropped = list[Window]()
        self.taken = list[tuple[int | None, int, DecodingParams]]()  # channel and start of each window, and how it was to be decoded
        self.admitted = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.failure: Exception | None = None
        self.holds = 99  # windows that it has memory for
        self.seek_s: float | None = None
        self.stops_behind: int | None = None  # windows that it does before it holds
        self.says: Callable[[Window], tuple[Segment, ...]] = lambda w: (Segment(0, w.seconds, f" {w.start}", evidence=self.evidence),)
        self.evidence: Evidence | None = None

    def spelled(self, token: int) -> bytes:
        return b""

    def free(self) -> int:
        return self.max_batch_size - len(self.running)

    def admit(self, windows: Sequence[Window]) -> None:
        self.running += windows
        self.taken += [(window.channel, window.start, window.params) for window in windows]
        self.admitted.release(len(windows))

    def advance(self) -> list[tuple[Window, WindowResult]]:
        if self.failure is not None and self.running:
            raise self.failure
        if len(self.running) > self.holds:
            raise OutOfMemory("expected less")
        if not self.go.wait(0.005):
            return []
        done, self.running = self.running, []
        if self.stops_behind is not None:
            self.stops_behind -= len(done)
            if self.stops_behind <= 0:
                self.go.clear()
        return [(w, WindowResult(self.says(w), self.evidence, "en", {}, self.seek_s)) for w in done]

    def halve(self) -> None:
        self.max_batch_size //= 2
        self.running = []

    def drop(self, windows: Collection[Window]) -> None:
        self.dropped += windows
        self.running = [window for window in self.running if window not in windows]
