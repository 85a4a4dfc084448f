"""Test the reader of forms on forms of its peers, on random forms cut at random, and at its limits."""

import email
import random
from collections.abc import Callable, Iterable, Iterator
from email.message import Message

import httpx
import pytest
import requests

from handler.errors import InvalidRequest
from local_server.uploads.multipart import MAX_CONTENT_TYPE, MAX_FIELD_BYTES, MAX_FIELDS, Form

CONTENT_TYPE = "multipart/form-data; boundary=b--b"
END = b"--b--b--\r\n"
FILE_HEAD = 'form-data; name="file"; filename="a.wav"'
# Values made of these look like the end of a part, up to any byte of it.
FRAGMENTS = (b"\r", b"\n", b"-", b"\r\n", b"--b", b"--b--", b"\r\n--b", b"\r\n--b-", b"\r\n\r\n", b"b", "é".encode())
Encode = Callable[[dict[str, list[str]], dict[str, tuple[str, bytes]]], tuple[bytes, str]]


def part(disposition: str, value: bytes = b"") -> bytes:
    return b"--b--b\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + value + b"\r\n"


def field(name: str, value: bytes = b"") -> bytes:
    return part(f'form-data; name="{name}"', value)


def read(pieces: Iterable[bytes], content_type: str = CONTENT_TYPE) -> tuple[list[tuple[str, str]], bytes]:
    """Return the fields and the file of a form that arrives in these pieces."""
    form = Form(content_type)
    file = b"".join(data for piece in pieces for data in form.feed(piece))
    form.end()
    return form.fields, file


def refusal(*pieces: bytes, content_type: str = CONTENT_TYPE) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(pieces, content_type)
    return caught.value.message


def cut(body: bytes, chance: random.Random) -> Iterator[bytes]:
    """Yield a body in pieces of random sizes, of which some are empty."""
    start = 0
    while start < len(body):
        size = chance.choice((0, 1, 1, 2, 3, 10, 100))
        yield body[start : start + size]
        start += size


def read_slowly(body: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Return the fields and the file of a complete form, as Python's parser of mails reads them."""
    parts = email.message_from_bytes(f"Content-Type: {CONTENT_TYPE}\r\n\r\n".encode() + body).get_payload()
    fields, file = [], b""
    assert isinstance(parts, list)
    for message in parts:
        assert isinstance(message, Message)
        value = message.get_payload(decode=True)
        assert isinstance(value, bytes)
        if message.get_filename() is not None:
            file = value
        else:
            fields.append((str(message.get_param("name", header="content-disposition")), value.decode()))
    return fields, file


@pytest.mark.parametrize("seed", range(20))
def test_a_random_form_in_random_pieces_is_what_a_parser_of_the_whole_form_reads(seed: int) -> None:
    chance = random.Random(seed)
    values = [b"".join(chance.choices(FRAGMENTS[:-2], k=chance.randrange(12))) for _ in range(6)]
    values = [value.replace(b"--b--b", b"") for value in values]
    parts = [field(f"name {index}", value) for index, value in enumerate(values[1:])]
    parts.insert(chance.randrange(6), part(FILE_HEAD, values[0]))
    body = b"".join(parts) + END
    expected = [(f"name {index}", value.decode()) for index, value in enumerate(values[1:])], values[0]
    assert read([body]) == expected
    assert read(cut(body, chance)) == expected


def test_a_form_is_read_as_pythons_parser_of_mails_reads_it() -> None:
    chance = random.Random(0)
    data = "".join(chance.choices("abc -=\t", k=500)).encode() + b"."
    body = field("a", "Zürich".encode()) + part(FILE_HEAD, data) + field("a") + field("b", b"--b-\r\n1") + END
    assert read(cut(body, chance)) == read_slowly(body)


def _by_httpx(fields: dict[str, list[str]], files: dict[str, tuple[str, bytes]]) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://a/", data=fields, files=files)
    return request.read(), request.headers["content-type"]


def _by_requests(fields: dict[str, list[str]], files: dict[str, tuple[str, bytes]]) -> tuple[bytes, str]:
    request = requests.Request("POST", "http://a/", data=fields, files=files).prepare()
    assert isinstance(request.body, bytes)
    return request.body, request.headers["content-type"]


@pytest.mark.parametrize("encode", [_by_httpx, _by_requests])
@pytest.mark.parametrize("name", ["language", "a name", "größe", "timestamp_granularities[]"])
@pytest.mark.parametrize("file_name", ["a.wav", 'a "naïve" name; filename=b.wav', "録音.mp3"])
def test_a_form_of_another_client_arrives_as_it_was_given(encode: Encode, name: str, file_name: str) -> None:
    data = bytes(range(256)) * 3
    body, content_type = encode({name: ["ä\r\n", ""]}, {"file": (file_name, data)})
    assert read(cut(body, random.Random(0)), content_type) == ([(name, "ä\r\n"), (name, "")], data)


@pytest.mark.parametrize(
    "content_type",
    ['multipart/form-data; boundary="b--b"', "Multipart/Form-Data; charset=utf-8; Boundary=b--b"],
)
@pytest.mark.parametrize("head", ["CONTENT-DISPOSITION: form-data; NAME=a", 'content-disposition:form-data;name="a"'])
def test_names_of_headers_and_parameters_have_any_case_and_quotes_are_optional(content_type: str, head: str) -> None:
    body = b"--b--b\r\nX-Other: name=c; filename=d\r\n" + head.encode() + b"\r\n\r\n1\r\n" + END
    assert read([body], content_type) == ([("a", "1")], b"")


@pytest.mark.parametrize(
    ("body", "fields", "data"),
    [
        (END, [], b""),
        (field("") + END, [("", "")], b""),
        (part('form-data; name="a\\"b"', b"1") + END, [('a"b', "1")], b""),
        (part('form-data; name="file"; filename=""') + END, [], b""),
        (part("form-data; name=\"file\"; filename*=UTF-8''%C3%A9.wav", b"1") + END, [], b"1"),
        (field("a", b"1") + END + b"what follows is not part of it", [("a", "1")], b""),
    ],
    ids=["no part", "an empty name", "an escaped quote", "an empty file", "an encoded file name", "an epilogue"],
)
def test_an_unusual_form_is_read_all_the_same(body: bytes, fields: list[tuple[str, str]], data: bytes) -> None:
    assert read([body]) == (fields, data)
    assert read(body[at : at + 1] for at in range(len(body))) == (fields, data)


def test_all_but_a_boundary_of_a_file_is_returned_as_soon_as_it_has_arrived() -> None:
    data = random.Random(0).randbytes(5000)
    head, _, tail = part(FILE_HEAD, data).partition(data)
    form = Form(CONTENT_TYPE)
    assert list(form.feed(head)) == []
    received = b""
    for start in range(0, len(data), 50):
        received += b"".join(form.feed(data[start : start + 50]))
        assert data[: max(0, start + 50 - len("\r\n--b--b"))] == received[: max(0, start + 50 - len("\r\n--b--b"))]
        assert data.startswith(received)
    assert received + b"".join(form.feed(tail + END)) == data


@pytest.mark.parametrize(
    ("before", "has_leading_fields"), [(b"", False), (field("a"), True), (field("a") + field("b", b"1"), True)]
)
def test_a_file_is_announced_by_its_head_with_whether_fields_came_before(
    before: bytes, has_leading_fields: bool
) -> None:
    form = Form(CONTENT_TYPE)
    form.feed(before)
    assert (form.has_file, form.has_leading_fields) == (False, False)
    form.feed(part(FILE_HEAD)[:-2])
    assert (form.has_file, form.has_leading_fields) == (True, has_leading_fields)
    form.feed(b"\r\n" + field("c") + END)
    assert (form.has_file, form.has_leading_fields) == (True, has_leading_fields)


def test_fields_may_be_as_many_and_as_long_as_the_limits_and_no_more() -> None:
    many = field("a") * MAX_FIELDS
    assert len(read([many + END])[0]) == MAX_FIELDS
    assert f"{MAX_FIELDS} at most" in refusal(many + field("a") + END)
    half = field("a", bytes(MAX_FIELD_BYTES // 2))
    assert len(read([half, half, field("empty"), END])[0]) == 3
    assert f"of {MAX_FIELD_BYTES} bytes together" in refusal(half, half, field("a", b"1") + END)


@pytest.mark.parametrize("index", [0, MAX_FIELDS // 2, MAX_FIELDS])
def test_as_many_fields_as_the_limit_may_come_before_and_after_the_file(index: int) -> None:
    form = [field("a")] * MAX_FIELDS
    form.insert(index, part(FILE_HEAD, b"1"))
    fields, file = read([*form, END])
    assert (len(fields), file) == (MAX_FIELDS, b"1")


def test_a_file_has_the_content_type_of_its_part_and_fields_have_none() -> None:
    form = Form(CONTENT_TYPE)
    disposition = f"Content-Disposition: {FILE_HEAD}"
    form.feed(b"--b--b\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n")
    assert form.file_type == ""
    form.feed(f"--b--b\r\ncontent-type: audio/L16; rate=8000\r\n{disposition}\r\n\r\n1\r\n".encode())
    form.feed(END)
    assert form.file_type == "audio/L16; rate=8000"


def test_a_file_is_not_counted_with_the_fields() -> None:
    data = bytes(MAX_FIELD_BYTES + 1)
    full = field("a", bytes(MAX_FIELD_BYTES))
    assert read([part(FILE_HEAD, data), full, END])[1] == data


def test_a_field_over_the_limit_is_refused_before_its_end() -> None:
    form = Form(CONTENT_TYPE)
    form.feed(field("a", bytes(MAX_FIELD_BYTES))[:-2])
    with pytest.raises(InvalidRequest, match="bytes together"):
        form.feed(bytes(10))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "before its last boundary"),
        (field("a", b"1"), "before its last boundary"),
        (part(FILE_HEAD, bytes(100))[:-50], "before its last boundary"),
        (b"--b--b\r\n\r\n1\r\n" + END, "no name"),
        (field("a") + b"--b--b\r\nContent-Type: text/plain\r\n\r\n1\r\n" + END, "no name"),
        (b'--b--b\r\nContent-Disposition form-data; name="a"\r\n\r\n1\r\n' + END, "invalid character"),
        (b'--b--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1\r\n' + END, "not UTF-8"),
        (field("a", "é".encode()[:1]) + END, "not UTF-8"),
        ((field("a") + END).replace(b"\r\n", b"\n"), "boundary"),
        ((field("a") + END).replace(b"b--b", b"c--c"), "boundary"),
        (b'{"url": "http://a/b"}', "boundary"),
        (part('form-data; name="sound"; filename="a"') + END, "must be named file; got 'sound'"),
        (field("file", b"RIFF\xff\xfe") + END, "the part named file has no filename"),
        (part(FILE_HEAD) + field("file") + END, "the part named file has no filename"),
        (part(FILE_HEAD) + part('form-data; name="file"; filename="b"') + END, "one file; got another"),
    ],
)
def test_a_form_that_is_none_is_refused_for_the_same_reason_in_one_piece_and_in_bytes(body: bytes, reason: str) -> None:
    assert reason in refusal(body)
    assert reason in refusal(*(body[at : at + 1] for at in range(len(body))))


@pytest.mark.parametrize("content_type", ["", "multipart/form-data; boundary=", "multipart/form-data; boundary*=b--b"])
def test_a_content_type_without_a_boundary_is_refused(content_type: str) -> None:
    assert "no boundary" in refusal(content_type=content_type)


def test_a_content_type_has_a_longest_length() -> None:
    longest = CONTENT_TYPE + " " * (MAX_CONTENT_TYPE - len(CONTENT_TYPE))
    assert read([END], longest) == ([], b"")
    assert "too long" in refusal(content_type=longest + " ")
