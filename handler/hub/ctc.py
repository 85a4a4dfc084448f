"""Read text off the output of a CTC model: the likeliest token of each frame, repeats and blanks left out.

A run of frames with the same token is one token; between two equal tokens there is a blank. One forward pass decodes
all windows, and the collapse is done for all of them at once by tensors. Source: Graves et al., Connectionist Temporal
Classification, 2006, section 3.2 (best path decoding).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handler.hub.features import Features
from handler.hub.frames import inputs_per_output, output_lengths
from handler.hub.recognizer import IsWanted
from handler.hub.token_text import TextBuilder, TimedToken
from handler.hub.vocabulary import Vocabulary
from handler.schema.window import Window, WindowResult


def collapse(logits: Tensor, lengths: Tensor, blank: int) -> list[list[TimedToken]]:
    """Return the tokens of each row of logits [B, T, V], of which the first lengths[b] frames count.

    The log-probability of a token is the mean of those of its frames.
    """
    ids = logits.argmax(-1)  # [B, T]
    logprobs = logits.gather(-1, ids[..., None])[..., 0].float() - logits.float().logsumexp(-1)
    frames = torch.arange(ids.shape[1], device=ids.device)
    is_token = (ids != blank) & (frames < lengths[:, None])
    before = torch.nn.functional.pad(ids[:, :-1], (1, 0), value=blank)
    begins = is_token & (ids != before)
    run = begins.flatten().cumsum(0) - 1  # the number of the run that each frame belongs to, if it is a token
    members = run[is_token.flatten()]
    count = int(begins.sum())
    sums = torch.zeros(count, device=ids.device).index_add(0, members, logprobs[is_token])
    sizes = torch.bincount(members, minlength=count)
    rows, starts = begins.nonzero(as_tuple=True)
    table = torch.stack((rows, ids[begins], starts, starts + sizes)).tolist()
    tokens: list[list[TimedToken]] = [[] for _ in range(len(logits))]
    for row, token, start, end, logprob in zip(*table, (sums / sizes).tolist(), strict=True):
        tokens[row].append(TimedToken(token, start, end, logprob))
    return tokens


class CtcRecognizer:
    """Decodes windows by one forward pass of a CTC model. `blank` is the id of the blank token."""

    def __init__(
        self, model: Any, features: Features, vocabulary: Vocabulary, blank: int, language: str | None
    ) -> None:
        self._model = model
        self._features = features
        self._blank = blank
        self._text = TextBuilder(vocabulary, inputs_per_output(model) * features.frame_s, language)

    def recognize(self, windows: Sequence[Window], is_wanted: IsWanted) -> list[WindowResult]:
        """Return the result of each window."""
        inputs = self._features(windows)
        logits = self._model(**inputs.tensors).logits
        lengths = output_lengths(self._model, inputs.lengths).clamp(max=logits.shape[1])
        tokens = collapse(logits, lengths, self._blank)
        return self._text.results(windows, tokens)
