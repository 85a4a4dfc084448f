"""Where the audio of a request comes from. Knows no format and no option."""

from dataclasses import dataclass
from typing import BinaryIO

from handler.audio.spool import Spool
from handler.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class AudioSource:
    """Where the audio of a request comes from.

    Exactly one of the four fields must be set. Raises InvalidRequest otherwise.
    """

    url: str | None = None  # http, https or s3
    base64: str | None = None  # the encoded bytes of a file; may be a data: URL
    file: BinaryIO | None = None  # readable and seekable, at its start; the caller closes it
    growing: Spool | None = None  # the caller closes it

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.url, self.base64, self.file, self.growing)) != 1:
            raise InvalidRequest("expected exactly one source of audio")
