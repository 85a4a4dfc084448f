"""A network of frames, with random weights: block by block it tells what it tells of the whole recording."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Nemotron3DiarizationConfig,
    Nemotron3DiarizationForAudioFrameClassification,
    Nemotron3DiarizationProcessor,
    NemotronAsrStreamingFeatureExtractor,
)

from handler.schema.speakers import SpeakerCount
from handler.schema.window import SAMPLE_RATE
from handler.speakers.frame_diarizer import FrameDiarizer, FrameSpeakerModel
from handler.startup.speaker_loader import load_speakers
from handler.timeline import Timeline
from tests.conftest import settings
from tests.support.conversations import converse


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint whose blocks are of 2.4 s, with 0.64 s ahead."""
    torch.manual_seed(0)
    config = Nemotron3DiarizationConfig(
        audio_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        head_config={"hidden_size": 16, "num_speakers": 4, "audio_hidden_size": 32},
        streaming_config={"num_speakers": 4, "speaker_cache_length": 40, "fifo_length": 30},
        chunk_length=30,
        chunk_right_context=8,
        fifo_length=10,
        speaker_cache_update_period=20,
    )
    network = Nemotron3DiarizationForAudioFrameClassification(config)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.3)
    path = tmp_path_factory.mktemp("frames")
    network.save_pretrained(path)
    Nemotron3DiarizationProcessor(NemotronAsrStreamingFeatureExtractor(feature_size=128)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> FrameSpeakerModel:
    loaded = load_speakers(settings(diarize_model=str(folder)), Timeline())
    assert isinstance(loaded, FrameSpeakerModel)
    return loaded


@pytest.mark.parametrize("seconds", [0.5, 3.0, 3.2, 12.34])
@pytest.mark.parametrize("size_s", [0.3, 5.0, 100.0])
def test_blocks_tell_what_the_whole_tells(model: FrameSpeakerModel, seconds: float, size_s: float) -> None:
    samples = converse(("reader", "story"), 4).samples[: round(seconds * SAMPLE_RATE)]
    network = model._network
    inputs = network.processor(samples, sampling_rate=SAMPLE_RATE)
    with torch.inference_mode():
        logits = network.network(**inputs).logits[0]
    diarizer = model.new_diarizer()
    for start in range(0, len(samples), round(size_s * SAMPLE_RATE)):
        diarizer.push(samples[start : start + round(size_s * SAMPLE_RATE)])
    diarizer.finish(SpeakerCount())
    told = np.concatenate(diarizer._active)
    expected = (logits.sigmoid() >= 0.5).numpy()[: len(told)]
    assert abs(len(told) - len(logits)) <= 8  # frames at the end that are padding
    assert (told == expected).mean() > 0.995


def test_no_more_speakers_are_told_than_there_may_be(model: FrameSpeakerModel) -> None:
    diarizer: FrameDiarizer = model.new_diarizer()
    diarizer.push(converse(("reader", "story"), 4).samples)
    assert diarizer.finish(SpeakerCount(1, 1)).num_speakers <= 1
    assert model.max_speakers == 4


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_next_to_nothing_has_no_turns(model: FrameSpeakerModel, seconds: float) -> None:
    diarizer = model.new_diarizer()
    diarizer.push(np.zeros(round(seconds * SAMPLE_RATE), np.float32))
    assert diarizer.finish(SpeakerCount()).turns() == []
