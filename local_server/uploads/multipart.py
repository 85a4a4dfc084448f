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
LONGEST_TYPE = 1000  # characters of a content type


class Form:
    """Takes a body piece by piece.

    `fields` are those that have come; `has_file` and `fields_first` say whether the file has begun, and whether fields came before it.
    """

    def __init__(self, content_type: str) -> None:
        """Raises InvalidRequest where the type names no boundary."""
        if len(content_type) > LONGEST_TYPE:
            raise _malformed("its content type is too long")
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        self.fields: list[tuple[str, str]] = []
        self.has_file = self.fields_first = False
        self._whole = False
        self._field_bytes = 0
        self._file: list[bytes] = []  # of the file, of this piece of the body
        self._name = ""  # of the part
        self._is_file = False
        self._value = bytearray()
        self._header, self._disposition = bytearray(), bytearray()
        try:
            if not boundary:
                raise FormParserError("its content type has no boundary")
            self._parser = MultipartParser(
                boundary,
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

    def feed(self, piece: bytes) -> Sequence[bytes]:
        """Take the next bytes; gives back those of the file. Raises InvalidRequest."""
        self._file = []
        try:
            self._parser.write(piece)
        except FormParserError as exc:
            raise _malformed(exc) from None
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
        if self._is_file and self.has_file:
            raise InvalidRequest(f"the form must have one {FILE}; got another")
        if self._is_file:
            self.has_file, self.fields_first = True, bool(self.fields)
        self._count(0)

    def _add(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._count(end - start)
            self._value += data[start:end]
            return
        self._file.append(data[start:end])

    def _close(self) -> None:
        if not self._is_file:
            self.fields.append((self._name, _text(bytes(self._value))))

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
