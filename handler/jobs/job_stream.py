"""Split a transcript into the parts of a job's stream. Knows no SDK and no decoding."""

from collections.abc import Iterator, Sequence
from typing import Any

from handler.output.formats import chunk, verbose
from handler.output.json_encoding import encode_json, to_jsonable
from handler.schema.options import Options
from handler.schema.transcript import Segment

BETWEEN = 2  # bytes between two parts of an aggregate


CHUNK_BYTES = 900_000  # of one part of a stream: the platform takes 1 MB


PARTED = ("text", "chunks", "segments", "formatted")  # fields that the parts of a stream have told


class StreamPartitioner:
    """Segments to the parts of a stream, whose texts one behind the other are the whole text."""

    def __init__(self, options: Options) -> None:
        self.bytes = 0  # of all parts
        self._options = options
        self._count = 0  # segments told

    def parts(self, segments: Sequence[Segment]) -> Iterator[dict[str, Any]]:
        """The parts for more segments, each under CHUNK_BYTES."""
        held: list[Segment] = []
        size = 0
        for segment in segments:
            length = len(encode_json(to_jsonable(self._part([segment]))))
            if held and size + length > CHUNK_BYTES:
                yield self._told(held)
                held, size = [], 0
            held.append(segment)
            size += length
        if held:
            yield self._told(held)

    def formatted(self, text: str) -> Iterator[dict[str, Any]]:
        """The parts for a whole that is text."""
        size = CHUNK_BYTES // 6  # characters: none is longer than six bytes, escaped
        for at in range(0, len(text), size):
            part: dict[str, Any] = to_jsonable({"formatted": text[at : at + size]})
            self.bytes += len(encode_json(part)) + BETWEEN
            yield part

    def _told(self, segments: Sequence[Segment]) -> dict[str, Any]:
        part: dict[str, Any] = to_jsonable(self._part(segments))
        self._count += len(segments)
        self.bytes += len(encode_json(part)) + BETWEEN
        return part

    def _part(self, segments: Sequence[Segment]) -> dict[str, Any]:
        text = "".join(segment.text for segment in segments)
        part: dict[str, Any] = {"text": text if self._count else text.lstrip(), "chunks": [chunk(one, self._options) for one in segments]}
        if self._options.format == "verbose_json":
            part["segments"] = [verbose(self._count + at, one) for at, one in enumerate(segments)]
        return part
