"""The benchmark's own parts: the record that a run goes on from, the joined file, the report."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from handler.schema.window import SAMPLE_RATE
from scripts.lib.bench import Record, _is_slow, _measured
from scripts.lib.bench_report import OURS, write_report
from scripts.lib.bench_server import Reply
from scripts.lib.convert import BASE, TINY
from scripts.lib.hard_audio import KINDS, joined_hard
from scripts.lib.listening import compressed, joined, spoken_in
from scripts.lib.machine import model_name
from tests.support.word_errors import count_word_errors, total_errors

WORDS = ("alpha", "beta", "gamma")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = []
    for number, seconds in enumerate((1.0, 2.5, 0.7)):
        soundfile.write(tmp_path / f"{number}.wav", np.full(round(seconds * 8000), 0.1 * number), 8000)
        rows.append(json.dumps({"audio": f"{number}.wav", "text": WORDS[number]}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(rows))
    return tmp_path


def test_a_joined_file_is_as_long_as_asked_for_and_says_what_is_in_it(folder: Path) -> None:
    clips = spoken_in(folder)
    once, again = (joined(clips, 20, folder / name) for name in ("a.flac", "b.flac"))
    assert once.text == again.text
    assert (folder / "a.flac").read_bytes() == (folder / "b.flac").read_bytes()
    assert 14 < once.seconds <= 20
    assert soundfile.info(once.path).duration == pytest.approx(once.seconds, abs=1 / SAMPLE_RATE)
    assert set(WORDS) == set(once.text.split())


def test_hard_audio_is_as_long_as_the_clips_and_as_loud_and_another_one(folder: Path) -> None:
    chance = np.random.default_rng(0)
    speech = np.asarray(np.sin(np.arange(32_000) / 10) * 0.3, np.float32)
    for name, make in KINDS.items():
        hard = make(speech, chance)
        assert len(hard) == len(speech), name
        assert 0.5 < np.std(hard) / np.std(speech) < 2, name
        assert np.std(hard - speech) > 0.01, name
    once, again = (joined_hard(spoken_in(folder), 10, folder / name) for name in ("a.flac", "b.flac"))
    assert once.text == again.text
    assert (folder / "a.flac").read_bytes() == (folder / "b.flac").read_bytes()


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.opus", "libopus")])
def test_a_compressed_file_is_as_long_as_before(folder: Path, name: str, codec: str) -> None:
    file = joined(spoken_in(folder), 20, folder / "a.flac")
    assert soundfile.info(compressed(file, codec, folder / name).path).duration == pytest.approx(file.seconds, abs=0.1)


def test_words_are_counted_as_whispers_normalizer_leaves_them() -> None:
    score = count_word_errors(["It's twenty two, isn't it?"], ["it is 22 is it"])
    assert total_errors(score) == 1


def test_a_well_known_checkpoint_has_its_name_and_any_other_its_id() -> None:
    names = {model: model_name(model) for model in (TINY, BASE, "openai/whisper-tiny")}
    assert names == {
        TINY: "Whisper tiny.en",
        BASE: "Whisper base",
        "openai/whisper-tiny": "openai/whisper-tiny",
    }


def test_what_was_lost_is_no_audio(folder: Path) -> None:
    clips = spoken_in(folder)
    found = _measured(clips, [Reply("alpha", 1.0), Reply(None, 1.0), Reply("gamma", 2.0)])
    assert (found["lost"], found["errors"]) == (1, 1)
    assert found["speed"] == pytest.approx(1.7 / 4)


PART = {"audio_s": 10.0, "speed": 80.0, "errors": 3, "wer": 0.1, "lost": 0}


def figures(speed: float) -> dict[str, object]:
    part = {"audio_s": 10.0, "speed": speed, "errors": 3, "wer": 0.1, "lost": 0}
    return {"clips": part, "joined": part, "peak_bytes": 2**30}


def test_a_run_goes_on_from_its_record_and_slow_peers_have_one_round(tmp_path: Path) -> None:
    record = Record(tmp_path / "run.jsonl")
    record.add("round 0: snail", figures(5.0))
    record.add(f"round 0: {OURS}", figures(50.0))
    resumed = Record(tmp_path / "run.jsonl")
    assert set(resumed.figures) == {"round 0: snail", f"round 0: {OURS}"}
    assert _is_slow("round 1: snail", resumed)
    assert not _is_slow(f"round 1: {OURS}", resumed)
    assert not _is_slow("length 36000", resumed)
    assert _is_slow("length 360000", resumed)


def test_a_report_has_a_section_for_each_run_and_keeps_the_others(tmp_path: Path) -> None:
    for model, speed in (("one", 80.0), ("two", 40.0), ("one", 90.0)):
        about = {"model": model, "device": "cpu", "threads": 2, "machine": "a machine", "clips": 3}
        length = {"audio_s": 600.0, "speed": 80.0, "seconds": 7.5, "peak_bytes": 2**30, "wer": 0.1, "hc_s": 0.01}
        clients = {"speed": 70.0, "p50_s": 1.0, "p95_s": 1.5, "lost": 0, "wer": 0.1, "hc_s": 0.01, "peak_bytes": 2**30}
        run = {
            "about": about,
            f"round 0: {OURS}": figures(speed),
            "round 0: peer": {**figures(40.0), "version": "1.2"},
            "round 0: 1 clients": clients,
            "round 0: 16 clients": clients,
            f"busy 0: {OURS}": figures(speed / 2),
            "busy 0: peer": {**figures(16.0), "version": "1.2"},
            "jobs 0: 2 windows, 16 clients": {"speed": speed, "lost": 0, "wer": 0.1},
            f"file 0: mp3: {OURS}": {**PART, "device_s": {"0": 3.0, "0.4": 1.0}},
            "file 0: mp3: peer": {**PART, "speed": 20.0},
            "beside 0: clips": {"p50": 1.5, "p95": 2.0, "long": 0.6, "lost": 0},
            "length 600": length,
            "length 1200": {**length, "audio_s": 1200.0, "seconds": 15.0},
        }
        write_report(run, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.count("## one on cpu") == text.count("## two on cpu") == 1
    assert "| peer 1.2 (one round) | 40.0× | 2.25 times as fast |" in text
    assert "| peer | 0.40 | 2.81 times as fast | 0.40 | 2.81 times as fast |" in text
    assert "| 2 windows | 16 | 90.0× | 1.00 | 0 | 10.00 % |" in text
    assert f"| mp3 | {OURS} | 80.0× |  | 3 (10.00 %) | 25 % |" in text
    assert "| mp3 | peer | 20.0× | 4.00 times as fast | 3 (10.00 %) |  |" in text
    assert "take 1.50 times as long as without it (p95 is 2.00 times p50); the file keeps 0.60" in text
    assert "to the power of 1.000" in text
    assert {path.name for path in tmp_path.glob("*.png")} == {"benchmarks-one-on-cpu.png", "benchmarks-two-on-cpu.png"}
