"""The cache of decoded windows: the same work is found, other work is not, and the size is bounded."""

import json
import os
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handler.schema.options import Options
from handler.schema.transcript import Evidence
from handler.schema.window import DecodingParams, Window
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.pipeline import Pipeline
from handler.transcription.window_cache import EVICT_EVERY, WindowCache
from handler.transcription.window_entry import MAX_ENTRY_BYTES
from tests.conftest import settings
from tests.support.asking import STORY, upload
from tests.support.fake_engine import FakeEngine
from tests.support.segments import make_segment
from tests.support.speech import wav

MODEL_INFO = {"model": "m", "revision": "1", "dtype": "float32", "version": "0"}
WINDOW = Window(16_000, np.arange(16_000, dtype=np.float32), ((16_000, 20_000),), params=DecodingParams(language="en"))
SEGMENT = replace(make_segment("decoded before", 1.0), tokens=(1, 2), evidence=Evidence(-0.1, 0, 1, 0, 3, False))
DECODED = DecodedWindow(16_000, 32_000, ((16_000, 20_000),), None, [SEGMENT], False, [(1.0, "cut")])


def cache_in(folder: Path, max_bytes: int = 10**9, max_age_s: float = 10**6) -> WindowCache:
    return WindowCache(folder, max_bytes, max_age_s)


def test_a_decoded_window_comes_back_as_it_was(tmp_path: Path) -> None:
    first, second = cache_in(tmp_path), cache_in(tmp_path)
    key = first.key(WINDOW, Options(), MODEL_INFO)
    assert first.get(key, WINDOW) is None
    first.put(key, DECODED)
    assert second.get(second.key(WINDOW, Options(), MODEL_INFO), WINDOW) == DECODED


@pytest.mark.parametrize(
    "identity",
    [
        (replace(WINDOW, samples=WINDOW.samples + np.float32(1e-6)), Options(), MODEL_INFO),
        (replace(WINDOW, start=0), Options(), MODEL_INFO),
        (WINDOW.with_params(language="de"), Options(), MODEL_INFO),
        (WINDOW.with_params(prompt="a"), Options(), MODEL_INFO),
        (WINDOW, Options(beam_size=2), MODEL_INFO),
        (WINDOW, Options(), MODEL_INFO | {"revision": "2"}),
        (WINDOW, Options(), MODEL_INFO | {"version": "1"}),
    ],
)
def test_other_work_is_not_found(tmp_path: Path, identity: tuple[Any, ...]) -> None:
    cache = cache_in(tmp_path)
    assert cache.key(*identity) != cache.key(WINDOW, Options(), MODEL_INFO)


def test_the_format_of_an_answer_does_not_matter(tmp_path: Path) -> None:
    options = Options(format="srt", timestamps="word", partial=True)
    assert cache_in(tmp_path).key(WINDOW, options, MODEL_INFO) == cache_in(tmp_path).key(WINDOW, Options(), MODEL_INFO)


def test_the_draft_of_a_window_does_not_matter(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    drafted = WINDOW.with_params(draft=(1, 2, 3))
    assert cache.key(drafted, Options(), MODEL_INFO) == cache.key(WINDOW, Options(), MODEL_INFO)


def entry_in(folder: Path) -> Path:
    """Store a window under the key abcd, and return its file."""
    cache_in(folder).put("abcd", DECODED)
    return folder / "ab" / "abcd"


OLD_FORMAT = json.dumps(asdict(DECODED)).encode()  # without a checksum


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: b"",
        lambda entry: entry[:-1],
        lambda entry: entry + b" ",
        lambda entry: entry.replace(b"decoded before", b"decoded behind"),
        lambda entry: OLD_FORMAT,
        lambda entry: b"[" * 100_000,
    ],
)
def test_a_damaged_file_counts_as_none_and_is_removed(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = entry_in(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    assert cache_in(tmp_path).get("abcd", WINDOW) is None
    assert not file.exists()


def test_the_file_of_another_window_counts_as_none(tmp_path: Path) -> None:
    file = entry_in(tmp_path)
    file.rename(file.with_name("abce"))
    assert cache_in(tmp_path).get("abce", WINDOW) is None


def write_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def write_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def write_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def write_huge_file(path: Path) -> None:
    os.truncate(path, 10**12)


@pytest.mark.parametrize("replace_file", [write_link, write_pipe, write_socket, write_huge_file])
def test_what_is_no_file_of_a_sensible_size_is_removed_unread(
    tmp_path: Path, replace_file: Callable[[Path], None]
) -> None:
    file = entry_in(tmp_path)
    replace_file(file)
    assert cache_in(tmp_path).get("abcd", WINDOW) is None
    assert not os.path.lexists(file)
    assert cache_in(tmp_path).get("abcd", WINDOW) is None
    cache_in(tmp_path).put("abcd", DECODED)
    assert cache_in(tmp_path).get("abcd", WINDOW) == DECODED


def test_a_folder_in_the_place_of_a_file_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "ab" / "abcd" / "content").mkdir(parents=True)
    cache = cache_in(tmp_path)
    assert cache.get("abcd", WINDOW) is None
    cache.put("abcd", DECODED)
    assert cache.get("abcd", WINDOW) is None


def test_a_link_to_another_folder_is_not_followed(tmp_path: Path) -> None:
    file = entry_in(tmp_path / "other")
    cache = cache_in(tmp_path / "kept", max_bytes=0)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "ab").symlink_to(file.parent)
    assert cache.get("abcd", WINDOW) is None
    cache.put("abce", DECODED)
    cache.evict()
    assert list(file.parent.iterdir()) == [file]


def test_a_use_counts_only_if_the_content_is_good(tmp_path: Path) -> None:
    file = entry_in(tmp_path)
    an_hour_ago = int(time.time()) - 3600
    os.utime(file, (an_hour_ago, an_hour_ago))
    moved = replace(WINDOW, start=0)
    assert cache_in(tmp_path).get("abcd", WINDOW) == DECODED
    assert file.stat().st_mtime > an_hour_ago
    os.utime(file, (an_hour_ago, an_hour_ago))
    file.chmod(0o400)
    with file.open("rb") as content:  # its words lie outside of this window
        assert cache_in(tmp_path).get("abcd", moved.part(0, 8_000)) is None
        assert os.fstat(content.fileno()).st_mtime == an_hour_ago


def test_nobody_else_may_look_into_the_folder(tmp_path: Path) -> None:
    file = entry_in(tmp_path / "kept")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


@pytest.mark.parametrize("text", ["a" * MAX_ENTRY_BYTES, "\ud800"])
def test_what_could_not_be_read_back_is_not_kept(tmp_path: Path, text: str) -> None:
    cache = cache_in(tmp_path)
    cache.put("abcd", replace(DECODED, segments=[replace(SEGMENT, text=text)]))
    assert cache.get("abcd", WINDOW) is None


def test_numbers_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    evidence = Evidence(float("-inf"), 0, 1, 0, 3, False)
    cache_in(tmp_path).put("abcd", replace(DECODED, segments=[replace(SEGMENT, evidence=evidence)]))
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_old_or_too_large_is_evicted_the_oldest_first(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    for number in range(6):
        cache.put(f"{number:02d}", DECODED)
        used_at = time.time() - 1000 + number
        os.utime(tmp_path / f"{number:02d}" / f"{number:02d}", (used_at, used_at))
    size = (tmp_path / "00" / "00").stat().st_size
    cache_in(tmp_path, max_bytes=4 * size).evict()
    is_evicted = [cache.get(f"{number:02d}", WINDOW) is None for number in range(6)]
    assert is_evicted == [True, True, False, False, False, False]
    old = time.time() - 5000
    os.utime(tmp_path / "02" / "02", (old, old))
    cache_in(tmp_path, max_age_s=3000).evict()
    assert cache.get("02", WINDOW) is None
    assert cache.get("03", WINDOW) is not None


def test_writing_many_windows_evicts_by_itself(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, max_bytes=2000)
    for number in range(2 * EVICT_EVERY):
        cache.put(f"{number:04d}", DECODED)
    assert sum(1 for _ in tmp_path.glob("??/*")) <= EVICT_EVERY + 2000 // 100


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    cache = cache_in(tmp_path / "file")
    cache.put("abcd", DECODED)
    assert cache.get("abcd", WINDOW) is None


async def test_the_same_audio_is_not_decoded_twice_by_two_processes_that_share_a_folder(tmp_path: Path) -> None:
    engines = FakeEngine(), FakeEngine()
    texts = []
    for engine in engines:
        pipeline = Pipeline(engine, settings(batch_size=2, resume_dir=tmp_path))
        texts.append((await pipeline.transcribe(upload(wav(STORY)), Options())).text)
        pipeline.close()
    assert texts[0] == texts[1]
    assert len(engines[0].admitted_windows) > 1
    assert engines[1].admitted_windows == []
