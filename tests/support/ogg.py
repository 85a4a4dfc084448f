"""Pages of Ogg files, taken apart and put together."""

_POLYNOMIAL = 0x04C11DB7


def split_pages(data: bytes) -> list[bytes]:
    """Return the pages of an Ogg file."""
    pages, start = [], 0
    while start < len(data):
        segments = data[start + 27 : start + 27 + data[start + 26]]
        end = start + 27 + len(segments) + sum(segments)
        pages.append(data[start:end])
        start = end
    return pages


def with_checksum(page: bytes) -> bytes:
    """Return a page with the checksum of its content."""
    page = page[:22] + bytes(4) + page[26:]
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (_POLYNOMIAL if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return page[:22] + value.to_bytes(4, "little") + page[26:]


def set_vorbis_rate(data: bytes, rate: int) -> bytes:
    """Return a Vorbis file whose header states another sample rate in Hz."""
    first, *others = split_pages(data)
    start = first.index(b"\x01vorbis") + 12
    return b"".join([with_checksum(first[:start] + rate.to_bytes(4, "little") + first[start + 4 :]), *others])
