"""Open an openai-whisper checkpoint, which is a single .pt file. Knows no other layout."""

from pathlib import Path

import torch

from handler.whisper.checkpoint.layout import Checkpoint, TensorNames
from handler.whisper.dims import Dims

NAMES = TensorNames(
    layer="{side}.blocks.",
    in_layer={
        "attn_norm": "attn_ln",
        "attn.qkv": "attn.query attn.key attn.value",
        "attn.out": "attn.out",
        "cross_norm": "cross_attn_ln",
        "cross.q": "cross_attn.query",
        "cross.kv": "cross_attn.key cross_attn.value",
        "cross.out": "cross_attn.out",
        "mlp_norm": "mlp_ln",
        "mlp.up": "mlp.0",
        "mlp.down": "mlp.2",
    },
    modules={
        "encoder.conv1": "encoder.conv1",
        "encoder.conv2": "encoder.conv2",
        "encoder.norm": "encoder.ln_post",
        "decoder.tokens": "decoder.token_embedding",
        "decoder.norm": "decoder.ln",
    },
    tensors={
        "encoder.positions": "encoder.positional_embedding",
        "decoder.positions": "decoder.positional_embedding",
    },
)


def open_openai(path: Path) -> Checkpoint:
    """Open the .pt file at `path` without running any code that it contains.

    Raises ValueError if the file holds no Whisper checkpoint, and TypeError if a size of the network is missing or
    unknown. Also raises the errors of torch.load.
    """
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not (isinstance(content, dict) and {"dims", "model_state_dict"} <= set(content)):
        raise ValueError("expected the entries dims and model_state_dict")
    return Checkpoint(path.name, NAMES, Dims(**content["dims"]), content["model_state_dict"].get)
