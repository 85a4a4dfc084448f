"""What a decoding step has to know of each slot, on the device. Knows no network and no task.

All of it is one tensor, so a sequence begins with one copy from the host, and moves to another slot with one copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from handler.whisper.host_copy import host_tensor, to_device
from handler.whisper.logit_rules import History
from handler.whisper.tokenizer import Specials

DETECTED = -1  # stands in a prompt for the language token, where the step finds out the language
MAX_PROMPT_READ_BY_STEPS = 3  # tokens: start of transcript, language and task

_HISTORY = slice(0, 5)  # rows of the tensor, in the order of History's fields
_PROMPT_LENGTH, _UNREAD = 5, 6
_NEXT = slice(7, 7 + MAX_PROMPT_READ_BY_STEPS - 1)


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a sequence begins."""

    prompt: Sequence[int]  # may contain DETECTED if `is_read_by_steps`
    text_required_until: int  # see History
    is_read_by_steps: bool  # whether the first steps read the prompt, instead of a prefill
    decoded: Sequence[int] = ()  # tokens that are decoded already


class DecodingState:
    """The numbers of all slots that steps read and write: the history, and what is left to read of the prompts.

    A prompt of up to MAX_PROMPT_READ_BY_STEPS tokens may be read by steps, one token each. Such a step gives no token
    to its sequence: the next one is known.
    """

    def __init__(self, slots: int, specials: Specials, device: torch.device) -> None:
        self._ids = specials
        self._values = torch.zeros(_NEXT.stop, slots, dtype=torch.int64, device=device)
        self.history = History(*self._values[_HISTORY])
        self.prompt_lengths = self._values[_PROMPT_LENGTH]
        self.unread = self._values[_UNREAD]  # tokens of the prompt after the one that the next step reads
        self._next = self._values[_NEXT]  # row n: the token that comes when n others come after it
        self.clear()

    def clear(self) -> None:
        """Forget all sequences."""
        self._values.zero_()
        self.history.last_timestamp.fill_(self._ids.timestamp_begin - 1)

    def begin(self, slots: slice, beginnings: Sequence[Beginning]) -> None:
        """Set the state of `slots` to that of sequences that begin."""
        device = self._values.device
        columns = np.array([self._values_of(beginning) for beginning in beginnings]).T
        self._values[:, slots] = to_device(host_tensor(columns, device), device)

    def _values_of(self, beginning: Beginning) -> list[int]:
        """Return the values of a slot whose sequence begins, in the order of the rows."""
        prompt = beginning.prompt
        following = list(reversed(prompt[1:])) if beginning.is_read_by_steps else []
        assert len(following) < MAX_PROMPT_READ_BY_STEPS
        last = prompt[0] if beginning.is_read_by_steps else prompt[-1]
        decoded = beginning.decoded
        previous, last = [0, last, *decoded][-2:]
        last_timestamp = max((token for token in decoded if token >= self._ids.timestamp_begin), default=0)
        last_timestamp = max(last_timestamp, self._ids.timestamp_begin - 1)
        history = [len(decoded), last, previous, last_timestamp, beginning.text_required_until]
        padding = [0] * (MAX_PROMPT_READ_BY_STEPS - 1 - len(following))
        return [*history, len(prompt), len(following), *following, *padding]

    def move(self, source: int, target: int) -> None:
        """Copy the state of one slot to another."""
        self._values[:, target] = self._values[:, source]

    def reorder(self, slots: Tensor, sources: Tensor) -> None:
        """Copy the state of each of `sources` to the slot of the same place in `slots`."""
        self._values[:, slots] = self._values[:, sources]

    def read_prompts(self, slots: slice, chosen: Tensor, detected: Tensor) -> tuple[Tensor, Tensor]:
        """Go on to the next token of each of `slots`. Return the tokens, and which of them are not of a prompt. [B]

        chosen [B] are the tokens that follow if a prompt is read to its end, and detected [B] the language tokens that
        take the place of DETECTED.
        """
        unread = self.unread[slots]
        is_read = unread == 0
        fewer = (unread - 1).clamp_(min=0)
        following = self._next[:, slots].gather(0, fewer[None])[0]
        following = torch.where(following == DETECTED, detected, following)
        unread.copy_(fewer)
        return torch.where(is_read, chosen, following), is_read
