"""The alignment heads of the published checkpoints. Knows no tensor.

The cross-attention of an alignment head follows the audio in time, so word times can be read from it. The table serves
checkpoints whose files do not list their alignment heads. Source: openai/whisper, whisper/__init__.py
(_ALIGNMENT_HEADS).
"""

from itertools import product

from handler.whisper.dims import Dims

Heads = tuple[tuple[int, int], ...]  # (layer, head)

# LAYER.HEAD pairs by the number of decoder layers, the number of mel bands, and whether the checkpoint is multilingual.
# large-v1 has the same shape as large-v2, so it gets the heads of large-v2.
_PUBLISHED: dict[tuple[int, int, bool], str] = {
    (4, 80, False): "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",  # tiny.en
    (4, 80, True): "2.2 3.0 3.2 3.3 3.4 3.5",  # tiny
    (6, 80, False): "3.3 4.7 5.1 5.5 5.7",  # base.en
    (6, 80, True): "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",  # base
    (12, 80, False): (  # small.en
        "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2 11.4"
    ),
    (12, 80, True): "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",  # small
    (24, 80, False): (  # medium.en
        "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3 20.9 20.14 21.12"
    ),
    (24, 80, True): "13.15 15.4 15.15 16.1 20.0 23.4",  # medium
    (32, 80, True): (  # large-v2
        "10.12 13.17 16.11 16.12 16.13 17.15 17.16 18.4 18.11 18.19 19.11 21.2 "
        "21.3 22.3 22.9 22.12 23.5 23.7 23.13 25.5 26.1 26.12 27.15"
    ),
    (32, 128, True): "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",  # large-v3
    (4, 128, True): "2.4 2.11 3.3 3.6 3.11 3.14",  # large-v3-turbo
}


def alignment_heads(dims: Dims, multilingual: bool) -> Heads:
    """Return the alignment heads of the published checkpoint that matches `dims` and `multilingual`.

    If no published checkpoint matches, or if the network has fewer heads than the one that does, return all heads in
    the upper half of the decoder layers.
    """
    published = _PUBLISHED.get((dims.n_text_layer, dims.n_mels, multilingual), "")
    pairs = (pair.split(".") for pair in published.split())
    heads = tuple((int(layer), int(head)) for layer, head in pairs)
    if heads and all(head < dims.n_text_head for _, head in heads):
        return heads
    upper_layers = range(dims.n_text_layer // 2, dims.n_text_layer)
    return tuple(product(upper_layers, range(dims.n_text_head)))
