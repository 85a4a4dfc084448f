"""Parse a multipart form while it arrives, into its fields and the bytes of its only file.

Knows no request and no audio, and accepts fields of any name. Source of the format: RFC 7578.
"""

import logging
import re
from collections.abc import Sequence

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from handler.errors import InvalidRequest

# It logs each damaged form, which the client is told of anyway.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

MAX_FIELDS = 1000
MAX_FIELD_BYTES = 8 * 1024**2  # of all fields together; they hold samples of speakers, too
FILE_FIELD = "file"  # the name of the part that is a file
MAX_CONTENT_TYPE = 1000  # characters
_ENCODED_FILE_NAME = re.compile(rb";\s*filename\*", re.IGNORECASE)  # a file name in the form of RFC 5987


class Form:
    """A form whose body is passed to `feed` piece by piece.

    `fields` has the name and value of each field received so far. `has_file` is True as soon as the file has begun to
    arrive, and `file_type` is then the content type that the form gives for it, or "". `has_leading_fields` is True if
    any field came before the file.
    """

    def __init__(self, content_type: str) -> None:
        """Create an empty form. Raises InvalidRequest if the content type has no boundary or is too long."""
        if len(content_type) > MAX_CONTENT_TYPE:
            raise _malformed("its content type is too long")
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        self.fields: list[tuple[str, str]] = []
        self.has_file = self.has_leading_fields = False
        self.file_type = ""
        self._has_ended = False
        self._field_bytes = 0
        self._file_pieces: list[bytes] = []  # bytes of the file in the piece that `feed` is parsing
        self._name = ""  # of the current part, like the next three
        self._is_file = False
        self._value = bytearray()
        self._headers: dict[bytes, bytearray] = {}
        self._header = bytearray()  # name of the current header
        try:
            if not boundary:
                raise FormParserError("its content type has no boundary")
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_begin": self._header.clear,
                    "on_header_field": self._add_header,
                    "on_header_value": self._add_header_value,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end_form,
                },
            )
        except FormParserError as exc:
            raise _malformed(exc) from None

    def feed(self, piece: bytes) -> Sequence[bytes]:
        """Parse the next piece of the body, and return the bytes in it that are the file's. Raises InvalidRequest."""
        self._file_pieces = []
        try:
            self._parser.write(piece)
        except FormParserError as exc:
            raise _malformed(exc) from None
        return self._file_pieces

    def end(self) -> None:
        """Raise InvalidRequest if the form is incomplete."""
        if not self._has_ended:
            raise _malformed("it ends before its last boundary")

    def _begin_part(self) -> None:
        self._value.clear()
        self._headers = {}

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._headers.setdefault(bytes(self._header).lower(), bytearray()).extend(data[start:end])

    def _end_headers(self) -> None:
        disposition = bytes(self._headers.get(b"content-disposition", b""))
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise _malformed("a part has no name")
        self._name = _text(options[b"name"])
        self._is_file = b"filename" in options
        if self._name == FILE_FIELD and not self._is_file:
            if not _ENCODED_FILE_NAME.search(disposition):
                raise _malformed(f"the part named {FILE_FIELD} has no filename, which tells it from a text field")
            self._is_file = True
        if self._is_file:
            self._begin_file()
        else:
            self._check_limits()

    def _begin_file(self) -> None:
        if self._name != FILE_FIELD:
            raise InvalidRequest(f"the form's only file must be named {FILE_FIELD}; got {self._name[:60]!r}")
        if self.has_file:
            raise InvalidRequest(f"the form must have one {FILE_FIELD}; got another")
        self.has_file = True
        self.has_leading_fields = bool(self.fields)
        self.file_type = self._headers.get(b"content-type", bytearray())[:MAX_CONTENT_TYPE].decode("latin-1")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._file_pieces.append(data[start:end])
        else:
            self._field_bytes += end - start
            self._check_limits()
            self._value += data[start:end]

    def _end_part(self) -> None:
        if not self._is_file:
            self.fields.append((self._name, _text(bytes(self._value))))

    def _end_form(self) -> None:
        self._has_ended = True

    def _check_limits(self) -> None:
        """Raise InvalidRequest if the fields have too many bytes together, or if there is no room for the current."""
        if self._field_bytes > MAX_FIELD_BYTES or len(self.fields) >= MAX_FIELDS:
            limit = f"{MAX_FIELDS} at most, of {MAX_FIELD_BYTES} bytes together"
            raise InvalidRequest(f"the form's fields must be {limit}")


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _malformed("a field is not UTF-8") from None


def _malformed(reason: object) -> InvalidRequest:
    return InvalidRequest(f"the body must be multipart/form-data with one part named {FILE_FIELD}: {reason}")
