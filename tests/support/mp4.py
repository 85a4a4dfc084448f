"""MP4 files put together box by box, whose tables may say anything."""

import struct
from collections.abc import Callable, Sequence

Run = tuple[int, int]


def box(kind: bytes, *content: bytes) -> bytes:
    """Return a box."""
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, *content: bytes, flags: int = 0) -> bytes:
    """Return a box with a version and flags."""
    return box(kind, words(flags), *content)


def words(*values: int) -> bytes:
    """Return numbers of 32 bits."""
    return struct.pack(f">{len(values)}I", *values)


def table(kind: bytes, entries: Sequence[Sequence[int]], count: int | None = None) -> bytes:
    """Return a box that counts its entries, or says that there are `count`."""
    return full_box(kind, words(len(entries) if count is None else count), *(words(*entry) for entry in entries))


def movie(
    stts: Sequence[Run] = ((4, 160),),
    stsc: Sequence[tuple[int, int, int]] = ((1, 4, 1),),
    stsz: tuple[int, int, Sequence[int]] = (320, 4, ()),
    elst: Sequence[tuple[int, int, int]] = (),
    others: Sequence[bytes] = (),  # further tables of each track
    stco: bytes | None = None,
    num_tracks: int = 1,
    rate: int = 8_000,
    channels: int = 1,
    codec: bytes = b"sowt",
    entry: bytes = b"",  # boxes in the description of the samples
    extra: bytes = b"",  # boxes at the end of the movie
    payload: bytes = bytes(1280),
    wrap: Callable[[bytes], bytes] = lambda moov: moov,
) -> bytes:
    """Return an MP4 file with PCM, or what is said to be PCM, its index in front."""

    def build(offset: int) -> bytes:
        description = box(
            codec,
            bytes(6) + struct.pack(">H", 1) + bytes(8) + struct.pack(">HHHHI", channels, 16, 0, 0, rate << 16),
            entry,
        )
        chunks = stco or table(b"stco", [(offset,)])
        tables = [table(b"stts", stts), table(b"stsc", stsc), chunks, *others]
        sizes = full_box(b"stsz", words(stsz[0], stsz[1]), words(*stsz[2]))
        stbl = box(b"stbl", full_box(b"stsd", words(1), description), *tables, sizes)
        dinf = box(b"dinf", full_box(b"dref", words(1), full_box(b"url ", flags=1)))
        minf = box(b"minf", full_box(b"smhd", words(0)), dinf, stbl)
        media = [full_box(b"mdhd", words(0, 0, rate, 10 * rate, 0)), full_box(b"hdlr", words(0), b"soun", bytes(13))]
        edits = [box(b"edts", table(b"elst", elst))] if elst else []
        track = full_box(b"tkhd", words(0, 0, 1, 0, 10 * rate), bytes(60), flags=7)
        traks = [box(b"trak", track, *edits, box(b"mdia", *media, minf)) for _ in range(num_tracks)]
        header = full_box(b"mvhd", words(0, 0, rate, 10 * rate, 0x10000), bytes(76), words(num_tracks + 1))
        return box(b"ftyp", b"isom", words(512), b"isom") + wrap(box(b"moov", header, *traks, extra))

    return build(len(build(0)) + 8) + box(b"mdat", payload)


def fragments(counts: Sequence[int], flags: int = 0) -> bytes:
    """Return an MP4 file with fragments that are said to have so many samples of 320 bytes."""
    trex = box(b"mvex", full_box(b"trex", words(1, 1, 160, 320, 0)))
    data = movie((), (), (0, 0, ()), stco=table(b"stco", ()), extra=trex, payload=b"")
    for count in counts:
        tfhd = full_box(b"tfhd", words(1, 160, 320), flags=0x20018)
        traf = box(b"traf", tfhd, full_box(b"trun", words(count), flags=flags))
        data += box(b"moof", full_box(b"mfhd", words(1)), traf) + box(b"mdat", bytes(1280))
    return data
