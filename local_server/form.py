"""A form while it arrives: its fields, and the bytes of its only file. Knows no field by name, no request and no audio.

Source of the format: RFC 7578.
"""

from collections.abc import Sequence

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from handler.errors import InvalidRequest

MOST_FIELDS = 1000
MOST_BYTES = 1024**2  # of all fields together
FILE = "file"  # the name of the part that is a file
_CLOSING = len(b"\r\n----\r\n")  # bytes of the last delimiter, beside the boundary


class Form:
    """Takes a body piece by piece. `fields` are those that have come; `file_at` is the place of the file's first byte."""

    def __init__(self, content_type: str) -> None:
        """Raises InvalidRequest where the type names no boundary."""
        _, options = parse_options_header(content_type)
        self.fields: list[tuple[str, str]] = []
        self.file_at: int | None = None
        self._boundary = options.get(b"boundary", b"")
        self._whole = False
        self._taken = 0  # bytes of the body
        self._field_bytes = 0
        self._file: list[bytes] = []  # of the file, of this piece of the body
        self._name = ""  # of the part
        self._is_file = False
        self._value = bytearray()
        self._header, self._disposition = bytearray(), bytearray()
        try:
            if not self._boundary:
                raise FormParserError("its content type has no boundary")
            self._parser = MultipartParser(
                self._boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_begin": self._header.clear,
                    "on_header_field": self._add_header,
                    "on_header_value": self._add_header_value,
                    "on_headers_finished": self._open,
                    "on_part_data": self._add,
                    "on_part_end": self._close,
                    "on_end": self._end,
                },
            )
        except FormParserError as exc:
            raise _malformed(exc) from None

    def file_size(self, total: int) -> int | None:
        """Bytes of the file, if nothing comes behind it in a body of so many bytes; None where it has not begun."""
        return None if self.file_at is None else max(0, total - self.file_at - len(self._boundary) - _CLOSING)

    def feed(self, piece: bytes) -> Sequence[bytes]:
        """Take the next bytes; gives back those of the file. Raises InvalidRequest."""
        self._file = []
        try:
            self._parser.write(piece)
        except FormParserError as exc:
            raise _malformed(exc) from None
        self._taken += len(piece)
        return self._file

    def end(self) -> None:
        """There are no more bytes. Raises InvalidRequest where there should be."""
        if not self._whole:
            raise _malformed("it ends before its last boundary")

    def _begin(self) -> None:
        self._value.clear()
        self._disposition.clear()

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition += data[start:end]

    def _open(self) -> None:
        _, options = parse_options_header(bytes(self._disposition))
        if b"name" not in options:
            raise _malformed("a part has no name")
        self._name = _text(options[b"name"])
        self._is_file = b"filename" in options
        if self._is_file and self._name != FILE:
            raise InvalidRequest(f"the form's only file must be named {FILE}; got {self._name[:60]!r}")
        if self._is_file and self.file_at is not None:
            raise InvalidRequest(f"the form must have one {FILE}; got another")
        self._count(0)

    def _add(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._count(end - start)
            self._value += data[start:end]
            return
        if self.file_at is None:
            self.file_at = self._taken + start
        self._file.append(data[start:end])

    def _close(self) -> None:
        if not self._is_file:
            self.fields.append((self._name, _text(bytes(self._value))))
        elif self.file_at is None:
            self.file_at = self._taken  # an empty one

    def _end(self) -> None:
        self._whole = True

    def _count(self, more: int) -> None:
        self._field_bytes += more
        if self._field_bytes > MOST_BYTES or len(self.fields) >= MOST_FIELDS:
            raise InvalidRequest(f"the form's fields must be {MOST_FIELDS} at most, of {MOST_BYTES} bytes together")


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _malformed("a field is not UTF-8") from None


def _malformed(why: object) -> InvalidRequest:
    return InvalidRequest(f"the body must be multipart/form-data with one part named {FILE}: {why}")
