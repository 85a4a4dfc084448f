"""Windows kept on disk: the same work is found again, other work is not, and there are never too many."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handler.schema.options import Options
from handler.schema.transcript import Evidence
from handler.schema.window import DecodingParams, Window
from handler.transcription.pipeline import Pipeline
from handler.transcription.window_cache import LOOK_EVERY, WindowCache
from handler.transcription.window_decoder import DecodedWindow
from tests.conftest import settings
from tests.support.asking import STORY, upload
from tests.support.fake_engine import FakeEngine
from tests.support.segments import spoken
from tests.support.speech import wav

ABOUT = {"model": "m", "revision": "1", "dtype": "float32", "version": "0"}
WINDOW = Window(16_000, np.arange(16_000, dtype=np.float32), ((16_000, 20_000),), params=DecodingParams(language="en"))
READING = DecodedWindow([replace(spoken("said before"), tokens=(1, 2), evidence=Evidence(-0.1, 0, 1, 0, 3, False))], False, [(1.0, "cut")])


def keep_words(folder: Path, most: int = 10**9, age_s: float = 10**6) -> WindowCache:
    return WindowCache(folder, most, age_s)


def test_a_reading_comes_back_as_it_was(tmp_path: Path) -> None:
    first, second = keep_words(tmp_path), keep_words(tmp_path)
    key = first.key(WINDOW, Options(), ABOUT)
    assert first.get(key) is None
    first.put(key, READING)
    assert second.get(second.key(WINDOW, Options(), ABOUT)) == READING


@pytest.mark.parametrize(
    "other",
    [
        (replace(WINDOW, samples=WINDOW.samples + np.float32(1e-6)), Options(), ABOUT), (replace(WINDOW, start=0), Options(), ABOUT),
        (WINDOW.with_params(language="de"), Options(), ABOUT), (WINDOW.with_params(prompt="a"), Options(), ABOUT),
        (WINDOW, Options(beam_size=2), ABOUT),
        (WINDOW, Options(), ABOUT | {"revision": "2"}), (WINDOW, Options(), ABOUT | {"version": "1"}),
    ],
)  # fmt: skip
def test_other_work_is_not_found(tmp_path: Path, other: tuple[Any, ...]) -> None:
    readings = keep_words(tmp_path)
    assert readings.key(*other) != readings.key(WINDOW, Options(), ABOUT)


def test_how_an_answer_is_shown_does_not_matter(tmp_path: Path) -> None:
    shown = Options(format="srt", timestamps="word", partial=True)
    assert keep_words(tmp_path).key(WINDOW, shown, ABOUT) == keep_words(tmp_path).key(WINDOW, Options(), ABOUT)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"segments": [{}], "accepted": true, "warnings": []}', "null"])
def test_a_file_that_is_damaged_counts_as_none(tmp_path: Path, content: str) -> None:
    readings = keep_words(tmp_path)
    readings.put("abcd", READING)
    (tmp_path / "ab" / "abcd").write_text(content)
    assert readings.get("abcd") is None


def test_what_is_too_old_or_too_much_gives_way_the_oldest_first(tmp_path: Path) -> None:
    readings = keep_words(tmp_path)
    for number in range(6):
        readings.put(f"{number:02d}", READING)
        used = time.time() - 1000 + number
        os.utime(tmp_path / f"{number:02d}" / f"{number:02d}", (used, used))
    size = (tmp_path / "00" / "00").stat().st_size
    keep_words(tmp_path, most=4 * size).tidy()
    assert [readings.get(f"{number:02d}") is None for number in range(6)] == [True, True, False, False, False, False]
    old = time.time() - 5000
    os.utime(tmp_path / "02" / "02", (old, old))
    keep_words(tmp_path, age_s=3000).tidy()
    assert readings.get("02") is None
    assert readings.get("03") is not None


def test_many_readings_tidy_up_by_themselves(tmp_path: Path) -> None:
    readings = keep_words(tmp_path, most=2000)
    for number in range(2 * LOOK_EVERY):
        readings.put(f"{number:04d}", READING)
    assert sum(1 for _ in tmp_path.glob("??/*")) <= LOOK_EVERY + 2000 // 100


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    readings = keep_words(tmp_path / "file")
    readings.put("abcd", READING)
    assert readings.get("abcd") is None


async def test_the_same_audio_is_not_decoded_twice_by_two_processes_that_share_a_folder(tmp_path: Path) -> None:
    engines = FakeEngine(), FakeEngine()
    texts = []
    for engine in engines:
        house = Pipeline(engine, settings(batch_size=2, resume_dir=tmp_path))
        texts.append((await house.transcribe(upload(wav(STORY)), Options())).text)
        house.close()
    assert texts[0] == texts[1]
    assert len(engines[0].taken) > 1
    assert engines[1].taken == []
