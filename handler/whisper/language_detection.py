"""Ask the decoder which language is spoken. Knows no batch and no window."""

import torch
from torch import Tensor

from handler.whisper.kv_cache import KVCache
from handler.whisper.model import Decoder
from handler.whisper.tokenizer import Specials


def language_logits(decoder: Decoder, ids: Specials, cache: KVCache, slots: slice, audio: slice) -> Tensor:
    """Return the logits of all languages for what is in n `audio` slots. [n, languages]

    The decoder reads the start of a transcript in as many `slots`, which are overwritten.
    """
    start = torch.full((slots.stop - slots.start, 1), ids.sot, device=cache.k.device)
    hidden = decoder(start, torch.zeros_like(start), cache, slots, 1, audio)
    first_id = ids.sot + 1
    return decoder.logits(hidden[:, 0])[:, first_id : first_id + len(ids.languages)]
