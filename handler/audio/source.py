"""Where the audio of one request comes from. Knows no format and no option."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from handler.errors import InvalidRequest


class GrowingFile(Protocol):
    """A file that is still being written, for several readers."""

    def reader(self, idle: Callable[[], AbstractContextManager[None]]) -> Any:
        """A new reader at its first byte, as a binary file; it waits for bytes inside of `idle`."""

    def check(self) -> None:
        """Raise what the writer met, if anything."""


@dataclass(frozen=True, slots=True)
class AudioSource:
    """Where the audio of one request comes from: exactly one of the four is set."""

    url: str | None = None  # http, https or s3
    base64: str | None = None  # the file's bytes, encoded; a data: URL is taken too
    file: BinaryIO | None = None  # readable and seekable, at its start; closing it is the giver's business
    growing: GrowingFile | None = None  # closing it is the giver's business, too

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.url, self.base64, self.file, self.growing)) != 1:
            raise InvalidRequest("expected exactly one source of audio")
