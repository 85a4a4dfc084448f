"""The networks as PyTorch computes them, beside ONNX Runtime on the models that the package carries."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from handler.errors import ModelUnavailable
from handler.schema.window import SAMPLE_RATE
from handler.speakers import community
from handler.speakers.embedding_network import EmbeddingNetwork
from handler.speakers.loading import EMBEDDING, SEGMENTATION, WEIGHTS
from handler.speakers.segmentation_network import CHUNK, SegmentationNetwork
from tests.support.conversations import converse


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("community")
    community.write_folder(folder)
    return load_file(folder / WEIGHTS)


@pytest.fixture(scope="module")
def graphs() -> dict[str, Any]:
    return community._models()


def session(graph: Any) -> onnxruntime.InferenceSession:
    """ONNX wants a name for each graph, which ONNX Runtime's own format does not have."""
    for part in _graphs(graph):
        part.name = part.name or "graph"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.999), (torch.bfloat16, 0.99)])
def test_the_segmentation_is_the_same(
    weights: dict[str, torch.Tensor], graphs: dict[str, Any], dtype: torch.dtype, share: float
) -> None:
    network = SegmentationNetwork()
    network.load_state_dict(part(weights, SEGMENTATION))
    network.compute_in(dtype)
    samples = converse(("reader", "story"), 4, -0.5).samples[:CHUNK]
    (expected,) = session(graphs[SEGMENTATION]).run(None, {"waveforms": samples[None, None]})
    with torch.inference_mode():
        active = network(torch.from_numpy(samples)[None]).numpy()
    assert (active == expected.astype(bool)).mean() > share
    assert 0.2 < active.any(-1).mean() < 1.0


def test_the_embedding_is_the_same(weights: dict[str, torch.Tensor], graphs: dict[str, Any]) -> None:
    network = EmbeddingNetwork()
    network.load_state_dict(part(weights, EMBEDDING))
    chance = np.random.default_rng(0)
    features = chance.standard_normal((1, 2 * SAMPLE_RATE // 160, 80)).astype(np.float32)
    told = (chance.random((1, features.shape[1])) > 0.5).astype(np.float32)
    (expected,) = session(graphs[EMBEDDING]).run(None, {"fbank": features, "weights": told})
    with torch.inference_mode():
        vector = network.eval()(torch.from_numpy(features), torch.from_numpy(told)).numpy()
    similarity = (vector * expected).sum() / np.linalg.norm(vector) / np.linalg.norm(expected)
    assert similarity > 0.9999


def test_a_package_without_the_models_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(community, "PACKAGE", "no_such_package")
    with pytest.raises(ModelUnavailable, match="moonshine-voice"):
        community.write_folder(tmp_path)
