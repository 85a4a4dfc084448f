"""How many frames a network makes of its input. Knows no token."""

from typing import Any

import torch
from torch import Tensor

from handler.errors import ModelUnavailable

# By which of its methods a network tells the length of its output, given that of its input; the first it has counts.
_METHODS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
_MANY = 10**7  # so many input frames show how many of them an output frame stands for


def output_lengths(model: Any, lengths: Tensor) -> Tensor:
    """Return the number of output frames for each number of input frames [B].

    Raises ModelUnavailable if the network, of code that a checkpoint brings, does not tell it.
    """
    method = next((getattr(model, name) for name in _METHODS if hasattr(model, name)), None)
    if method is None:
        raise ModelUnavailable(f"{type(model).__name__} has no method {' or '.join(_METHODS)}, which tells its frames")
    return torch.as_tensor(method(lengths))


def inputs_per_output(model: Any) -> int:
    """Return how many input frames an output frame stands for."""
    return round(_MANY / int(output_lengths(model, torch.tensor([_MANY]))[0]))
