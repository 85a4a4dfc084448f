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
    frames = torch.from_numpy(np.pad(samples, (CONTEXT, 0))).unfold(0, CONTEXT + FRAME, FRAME)
    for first in range(0, len(frames), 100):
        features = network.features(frames[first : first + 100])
        probabilities, state = network.probabilities(features[None], state)
        found += probabilities[0].tolist()
    assert found == pytest.approx(expected, abs=1e-3)
