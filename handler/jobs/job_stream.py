"""Split a transcript into the parts of a job's stream. Knows no SDK and no decoding."""

from collections.abc import Iterator, Sequence
from typing import Any

from handler.output.formats import chunk, verbose
from handler.output.json_encoding import encode_json, to_jsonable
from handler.schema.options import Options
from handler.schema.transcript import Segment

CHUNK_BYTES = 900_000  # upper limit of one part of a stream, because the platform accepts 1 MB
SEPARATOR_BYTES = 2  # between two parts in the list of all parts that the SDK sends at the end
MAX_CHAR_BYTES = 6  # longest encoding of one character in JSON, which is an escape sequence
STREAMED_FIELDS = ("text", "chunks", "segments", "formatted")  # fields that the last part does not repeat


class StreamPartitioner:
    """Turns segments into stream parts. The texts of the parts, joined in order, are the text of the transcript."""

    def __init__(self, options: Options) -> None:
        self.total_bytes = 0  # of all parts made
        self._options = options
        self._segment_count = 0  # in all parts made

    def split_segments(self, segments: Sequence[Segment]) -> Iterator[dict[str, Any]]:
        """Yield parts that contain the given segments, which follow those of earlier calls.

        A part has at most CHUNK_BYTES bytes, unless a single segment alone has more.
        """
        batch: list[Segment] = []
        batch_bytes = 0
        for segment in segments:
            segment_bytes = len(encode_json(to_jsonable(self._render([segment]))))
            if batch and batch_bytes + segment_bytes > CHUNK_BYTES:
                yield self._make_part(batch)
                batch, batch_bytes = [], 0
            batch.append(segment)
            batch_bytes += segment_bytes
        if batch:
            yield self._make_part(batch)

    def split_formatted(self, text: str) -> Iterator[dict[str, Any]]:
        """Yield parts of `text`, a transcript in a format such as SRT. A part has at most CHUNK_BYTES bytes of text."""
        part_chars = CHUNK_BYTES // MAX_CHAR_BYTES
        for start in range(0, len(text), part_chars):
            part: dict[str, Any] = to_jsonable({"formatted": text[start : start + part_chars]})
            self._count_bytes(part)
            yield part

    def _make_part(self, segments: Sequence[Segment]) -> dict[str, Any]:
        part: dict[str, Any] = to_jsonable(self._render(segments))
        self._segment_count += len(segments)
        self._count_bytes(part)
        return part

    def _count_bytes(self, part: dict[str, Any]) -> None:
        self.total_bytes += len(encode_json(part)) + SEPARATOR_BYTES

    def _render(self, segments: Sequence[Segment]) -> dict[str, Any]:
        text = "".join(segment.text for segment in segments)
        part: dict[str, Any] = {
            "text": text if self._segment_count else text.lstrip(),
            "chunks": [chunk(segment, self._options) for segment in segments],
        }
        if self._options.format == "verbose_json":
            part["segments"] = [verbose(index, segment) for index, segment in enumerate(segments, self._segment_count)]
        return part
