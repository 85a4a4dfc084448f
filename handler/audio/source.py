"""The source of a request's audio. Knows no format and no option."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from handler.errors import InvalidRequest


class GrowingFile(Protocol):
    """A file that is still being written, with any number of readers."""

    def reader(self, idle: Callable[[], AbstractContextManager[None]]) -> Any:
        """Return a new reader at the first byte, a binary file that waits for bytes inside the context `idle()`."""

    def check(self) -> None:
        """Raise the writer's error, if there was one."""


@dataclass(frozen=True, slots=True)
class AudioSource:
    """The source of a request's audio; exactly one of the four fields is set."""

    url: str | None = None  # http, https or s3
    base64: str | None = None  # the encoded bytes of a file; may be a data: URL
    file: BinaryIO | None = None  # readable and seekable, at its start; the caller closes it
    growing: GrowingFile | None = None  # the caller closes it

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.url, self.base64, self.file, self.growing)) != 1:
            raise InvalidRequest("expected exactly one source of audio")
