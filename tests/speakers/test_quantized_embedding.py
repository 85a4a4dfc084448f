"""Voices computed in integers are those of the network in floating-point numbers, nearly."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from handler.engine.device import has_byte_products
from handler.speakers.chunk_diarizer import EMBEDDED_FRAMES
from handler.speakers.community import write_folder
from handler.speakers.embedding_network import NUM_BINS, EmbeddingNetwork
from handler.speakers.filterbank import Filterbank
from handler.speakers.loading import EMBEDDING, WEIGHTS
from handler.speakers.quantized_embedding import QuantizedEmbedding
from handler.startup.check_speech import check_speech
from tests.support.conversations import voices

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(not has_byte_products(CPU), reason="needs products of bytes")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingNetwork:
    folder = tmp_path_factory.mktemp("weights")
    write_folder(folder)
    tensors = load_file(folder / WEIGHTS)
    network = EmbeddingNetwork().eval()
    own = {name.removeprefix(EMBEDDING): each for name, each in tensors.items() if name.startswith(EMBEDDING)}
    network.load_state_dict(own)
    return network.requires_grad_(False)


def features(samples: np.ndarray) -> torch.Tensor:
    return Filterbank(NUM_BINS, CPU)(torch.from_numpy(samples.astype(np.float32))[None], [len(samples)])


def stretches_of(*names: str) -> torch.Tensor:
    """Return the features of what each voice says, as long as a vector is made of."""
    heard = [features(piece)[:, :EMBEDDED_FRAMES] for name in names for piece in voices()[name]]
    return torch.cat([each for each in heard if each.shape[1] == EMBEDDED_FRAMES])


@torch.inference_mode()
def test_vectors_are_those_of_the_network_nearly(network: EmbeddingNetwork) -> None:
    stretches = stretches_of(*voices())
    weights = torch.ones(len(stretches), EMBEDDED_FRAMES)
    weights[::2, 40:] = 0
    quantized = QuantizedEmbedding(network, features(check_speech()))
    exact, near = (F.normalize(each(stretches, weights)) for each in (network, quantized))
    assert (exact * near).sum(1).min() > 0.98
    assert (exact * near).sum(1).median() > 0.99


@torch.inference_mode()
def test_a_vector_does_not_depend_on_the_others_of_its_batch(network: EmbeddingNetwork) -> None:
    stretches = stretches_of("reader")
    weights = torch.ones(len(stretches), EMBEDDED_FRAMES)
    quantized = QuantizedEmbedding(network, features(check_speech()))
    together = F.normalize(quantized(stretches, weights))
    alone = F.normalize(torch.cat([quantized(stretches[at : at + 1], weights[:1]) for at in range(len(stretches))]))
    assert (together * alone).sum(1).min() > 0.9999
