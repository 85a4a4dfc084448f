"""What the kinds of speech models have in common for the engine: windows in, results out."""

from collections.abc import Callable, Sequence
from typing import Protocol

from handler.schema.window import Window, WindowResult

IsWanted = Callable[[Window], bool]  # whether somebody still wants the result of a window


class Recognizer(Protocol):
    """A network that decodes a batch of windows as a whole. A single thread makes all calls."""

    def recognize(self, windows: Sequence[Window], is_wanted: IsWanted) -> list[WindowResult]:
        """Return the result of each window. That of a window that is not wanted any more does not matter.

        May raise errors of PyTorch.
        """
