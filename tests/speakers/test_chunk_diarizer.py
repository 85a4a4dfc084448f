"""Who speaks when in conversations of real voices, with pyannote's community-1 as a package carries it."""

from pathlib import Path

import numpy as np
import pytest

from handler.errors import ModelUnavailable
from handler.schema.speakers import SpeakerActivity, SpeakerCount, SpeakerModel
from handler.schema.window import SAMPLE_RATE
from handler.speakers.loading import WEIGHTS, load_speaker_model
from handler.startup.check_speech import check_speech
from handler.startup.speaker_loader import load_speakers
from handler.timeline import Timeline
from tests.conftest import settings
from tests.support.conversations import Conversation, converse, error_rates, voices


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("speakers")


@pytest.fixture(scope="module")
def model(cache_dir: Path) -> SpeakerModel:
    loaded = load_speakers(settings(diarize_model="pkg:moonshine_voice", cache_dir=cache_dir), Timeline())
    assert loaded is not None
    return loaded


def diarize(model: SpeakerModel, samples: np.ndarray, count: SpeakerCount | None = None) -> SpeakerActivity:
    diarizer = model.new_diarizer()
    diarizer.push(samples)
    return diarizer.finish(count or SpeakerCount())


@pytest.mark.parametrize(
    ("names", "pause_s"),
    [
        (("reader", "story"), 0.4),
        (("reader", "story"), -0.6),
        (("computer", "president"), 0.4),
        (("story", "computer"), 0.1),
        (("reader", "story", "computer"), 0.3),
        (("reader", "president", "computer", "story"), 0.4),
    ],
)
def test_as_many_speakers_are_found_as_there_are_and_each_where_they_speak(
    model: SpeakerModel, names: tuple[str, ...], pause_s: float
) -> None:
    conversation = converse(names, 10, pause_s)
    activity = diarize(model, conversation.samples)
    error_rate, confusion = error_rates(conversation.turns, activity.turns())
    assert activity.num_speakers == len(names)
    assert error_rate < 0.12
    assert confusion < 0.05


@pytest.mark.parametrize("name", ["reader", "story", "computer"])
def test_one_speaker_stays_one(model: SpeakerModel, name: str) -> None:
    assert diarize(model, converse([name], 6).samples).num_speakers == 1


@pytest.fixture(scope="module")
def conversation() -> Conversation:
    return converse(("reader", "story"), 8)


@pytest.mark.parametrize(
    ("count", "expected"), [(SpeakerCount(1, 1), 1), (SpeakerCount(3, 3), 3), (SpeakerCount(1, 4), 2)]
)
def test_a_stated_number_of_speakers_is_held(
    model: SpeakerModel, conversation: Conversation, count: SpeakerCount, expected: int
) -> None:
    assert diarize(model, conversation.samples, count).num_speakers == expected


@pytest.mark.parametrize("size_s", [0.3, 7.0, 100.0])
def test_the_sizes_of_pieces_change_nothing(model: SpeakerModel, conversation: Conversation, size_s: float) -> None:
    expected = diarize(model, conversation.samples)
    diarizer = model.new_diarizer()
    for start in range(0, len(conversation.samples), round(size_s * SAMPLE_RATE)):
        diarizer.push(conversation.samples[start : start + round(size_s * SAMPLE_RATE)])
    np.testing.assert_array_equal(diarizer.finish(SpeakerCount()).active, expected.active)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.5, 9.99, 10.0, 30.0])
def test_silence_of_any_length_has_no_speakers(model: SpeakerModel, seconds: float) -> None:
    activity = diarize(model, np.zeros(round(seconds * SAMPLE_RATE), np.float32))
    assert activity.num_speakers == 0
    assert activity.turns() == []


@pytest.mark.parametrize("seconds", [1.0, 5.0, 10.5])
def test_a_short_recording_has_its_speaker(model: SpeakerModel, seconds: float) -> None:
    samples = np.concatenate(voices()["reader"])[: round(seconds * SAMPLE_RATE)]
    assert diarize(model, samples).num_speakers == 1


def test_the_folder_of_the_package_is_written_once(
    model: SpeakerModel, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.speakers.community.write_folder", lambda folder: pytest.fail("it is there"))
    assert load_speakers(settings(diarize_model="pkg:moonshine_voice", cache_dir=cache_dir), Timeline()) is not None


def test_a_folder_without_the_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=f"a folder with {WEIGHTS}, or a checkpoint of nemotron3_diarization"):
        load_speakers(settings(diarize_model=str(tmp_path)), Timeline())
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(ModelUnavailable, match=WEIGHTS):
        load_speaker_model(tmp_path, settings(), check_speech())
