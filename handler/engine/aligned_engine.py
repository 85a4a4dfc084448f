"""An engine whose texts get word times from another model. Knows neither model.

Implements handler.schema.window.Engine.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from handler.schema.window import Aligner, Engine, Window, WindowResult


class AlignedEngine:
    """Passes windows to `engine`, which times no words, and has `aligner` time those of its texts.

    They take turns: no batch of the engine runs while words are timed.
    """

    def __init__(self, engine: Engine, aligner: Aligner) -> None:
        self._engine = engine
        self._aligner = aligner
        self.encode_batch_size = engine.encode_batch_size
        self.urgent_reserve = engine.urgent_reserve
        self.max_batch_size = engine.max_batch_size
        self.model_id = engine.model_id
        self.device_name = engine.device_name
        self.dtype_name = engine.dtype_name
        self.attention = engine.attention
        longest_s = min(engine.capabilities.longest_window_s, aligner.longest_window_s)
        self.capabilities = replace(engine.capabilities, word_times=True, longest_window_s=longest_s)

    def free(self) -> int:
        """Return how many more sequences may be admitted now."""
        return self._engine.free()

    def admit(self, windows: Sequence[Window]) -> None:
        """Add windows to the batch. Together they must need at most `free()` sequences."""
        self._engine.admit(windows)

    def advance(self) -> list[tuple[Window, WindowResult]]:
        """Do some work on all admitted windows. Return the finished ones with their results, whose words have times."""
        finished = self._engine.advance()
        texts = [(window, result) for window, result in finished if result.segments]
        aligned = iter(self._aligner.align(texts)) if texts else iter(())
        return [(window, next(aligned) if result.segments else result) for window, result in finished]

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a text token, which may be only part of a character."""
        return self._engine.token_bytes(token)

    def halve(self) -> None:
        """Replace the batch with an empty one of half the size, which needs less memory."""
        self._engine.halve()
        self.max_batch_size = self._engine.max_batch_size
        self.encode_batch_size = self._engine.encode_batch_size
        self.urgent_reserve = self._engine.urgent_reserve

    def drop(self, windows: Collection[Window]) -> None:
        """Remove windows whose results are no longer needed. Windows that are not in the batch are ignored."""
        self._engine.drop(windows)
