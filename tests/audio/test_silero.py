"""The network for voice activity detection, compared with the published one."""

import numpy as np
import pytest
import torch

from handler.audio.silero import CONTEXT, FRAME, State, load_silero
from handler.schema.window import SAMPLE_RATE
from tests.support.speech import FOX, PANGRAM, say, silence


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_the_probabilities_are_those_of_the_published_network_frame_by_frame() -> None:
    from silero_vad import load_silero_vad

    noise = (0.01 * np.random.default_rng(0).standard_normal(30_000)).astype(np.float32)
    samples = np.concatenate([say(PANGRAM), silence(1.5), say(FOX), noise])
    samples = samples[: len(samples) // FRAME * FRAME]
    published = load_silero_vad()
    expected = [published(frame, SAMPLE_RATE).item() for frame in torch.from_numpy(samples.reshape(-1, FRAME))]
    network = load_silero()
    state: State | None = None
    found = list[float]()
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (CONTEXT, 0)), CONTEXT + FRAME)[::FRAME]
    for first in range(0, len(frames), 100):
        block = frames[first : first + 100]
        features = network.features(block, np.ones(len(block), np.float32))
        probabilities, state = network.probabilities(features[None], state)
        found += probabilities[0].tolist()
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_gain_acts_like_louder_samples() -> None:
    frames = (np.random.default_rng(0).standard_normal((9, CONTEXT + FRAME)) / 1000).astype(np.float32)
    gains = np.linspace(1, 100, 9, dtype=np.float32)
    network = load_silero()
    amplified = network.features(frames * gains[:, None], np.ones(9, np.float32))
    assert network.features(frames, gains) == pytest.approx(amplified, rel=1e-4, abs=1e-5)
