"""Where the audio of a request comes from. Knows no format and no option."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from handler.errors import InvalidRequest


class GrowingFile(Protocol):
    """A file that may be read, by any number of readers, while it is still being written."""

    def reader(self, idle: Callable[[], AbstractContextManager[None]]) -> Any:
        """Return a new binary file that reads from the first byte on, and waits for bytes that have not arrived.

        Every wait takes place inside the context manager `idle()`.
        """

    def check(self) -> None:
        """Raise the error that stopped the file from being written, if there was one."""


@dataclass(frozen=True, slots=True)
class AudioSource:
    """Where the audio of a request comes from.

    Exactly one of the four fields must be set. Raises InvalidRequest otherwise.
    """

    url: str | None = None  # http, https or s3
    base64: str | None = None  # the encoded bytes of a file; may be a data: URL
    file: BinaryIO | None = None  # readable and seekable, at its start; the caller closes it
    growing: GrowingFile | None = None  # the caller closes it

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.url, self.base64, self.file, self.growing)) != 1:
            raise InvalidRequest("expected exactly one source of audio")
