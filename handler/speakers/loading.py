"""Load a speaker model from its folder. Knows no request."""

from contextlib import suppress
from pathlib import Path

import torch

from handler.engine.device import choose_device, choose_dtype, has_byte_products, prepare_device
from handler.engine.device_errors import device_errors
from handler.engine.json_file import read_json
from handler.errors import ModelUnavailable
from handler.schema.speakers import SpeakerModel
from handler.schema.window import Samples
from handler.settings import Settings
from handler.speakers.chunk_diarizer import SpeakerNetworks
from handler.speakers.chunk_model import ChunkSpeakerModel
from handler.speakers.embedding_network import NUM_BINS, EmbeddingNetwork
from handler.speakers.filterbank import Filterbank
from handler.speakers.frame_diarizer import FrameNetwork, FrameSpeakerModel
from handler.speakers.quantized_embedding import QuantizedEmbedding
from handler.speakers.segmentation_network import SegmentationNetwork

WEIGHTS = "speakers.safetensors"  # of both networks, each under its prefix
SEGMENTATION, EMBEDDING = "segmentation.", "embedding."
THRESHOLD = 0.69  # chosen on recordings of one to six people, by microphone and by telephone
FRAME_MODELS = ("nemotron3_diarization",)  # as config.json names them


def load_speaker_model(folder: Path, settings: Settings, example: Samples) -> SpeakerModel:
    """Load the model in `folder` onto the device. Raises ModelUnavailable, OutOfMemory, DeviceLost.

    `example` is speech, by which a network that is computed in integers knows how large its numbers get.
    """
    if (folder / WEIGHTS).is_file():
        return _load_chunk_model(folder, settings, example)
    model_type = None
    with suppress(OSError, ValueError):  # no configuration, or a damaged one
        model_type = read_json(folder / "config.json").get("model_type")
    if model_type in FRAME_MODELS:
        return _load_frame_model(folder, settings)
    expected = f"{WEIGHTS}, or a checkpoint of {', '.join(FRAME_MODELS)}"
    raise ModelUnavailable(f"DIARIZE_MODEL={settings.diarize_model}: expected a folder with {expected}")


def _load_frame_model(folder: Path, settings: Settings) -> FrameSpeakerModel:
    """Load a network of transformers."""
    from transformers import AutoModelForAudioFrameClassification, AutoProcessor

    device, dtype = prepare_device(settings)
    try:
        processor = AutoProcessor.from_pretrained(folder)
        with device_errors():
            network = AutoModelForAudioFrameClassification.from_pretrained(folder, dtype=dtype).to(device).eval()
    except (OSError, ValueError, RuntimeError) as exc:
        raise ModelUnavailable(f"DIARIZE_MODEL={settings.diarize_model}: {exc}") from exc
    network.requires_grad_(False)
    return FrameSpeakerModel(settings.diarize_model or folder.name, FrameNetwork(network, processor, device, dtype))


def _load_chunk_model(folder: Path, settings: Settings, example: Samples) -> ChunkSpeakerModel:
    """Load the networks of chunks and voices."""
    from safetensors.torch import load_file

    name = settings.diarize_model or folder.name
    device = choose_device(settings.device)
    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as exc:  # safetensors has an error of its own for a damaged file
        raise ModelUnavailable(f"{folder / WEIGHTS}: {exc}") from exc
    segmentation, embedding = SegmentationNetwork(), EmbeddingNetwork()
    try:
        for network, prefix in ((segmentation, SEGMENTATION), (embedding, EMBEDDING)):
            own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            network.load_state_dict(own)
            network.requires_grad_(False).eval()
    except RuntimeError as exc:
        raise ModelUnavailable(f"{folder / WEIGHTS} has not the weights of these networks") from exc
    dtype = choose_dtype("auto", device)  # turns and voices are as sure in any
    filterbank = Filterbank(NUM_BINS, device)
    if device.type == "cpu":
        segmentation.compute_in(dtype)
    if has_byte_products(device):
        features = filterbank(torch.from_numpy(example)[None], [len(example)])
        networks = SpeakerNetworks(
            segmentation, QuantizedEmbedding(embedding, features), filterbank, device, torch.float32, THRESHOLD
        )
        return ChunkSpeakerModel(name, networks)
    with device_errors():
        for part in (embedding.conv, *embedding.blocks):  # the last product is exact
            part.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        networks = SpeakerNetworks(segmentation.to(device), embedding.to(device), filterbank, device, dtype, THRESHOLD)
    return ChunkSpeakerModel(name, networks)
