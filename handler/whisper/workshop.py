"""Build the parts of an engine whose memory grows with the number of slots. Knows no window."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from handler.timeline import Timeline
from handler.whisper.alignment_heads import alignment_heads
from handler.whisper.alignment_queries import Heads
from handler.whisper.attention import ATTENTION_KERNELS, PAGE_STEP, PagedAttention
from handler.whisper.batch import Batch
from handler.whisper.cuda_graphs import Capture
from handler.whisper.kv_cache import KVCache
from handler.whisper.logit_rules import suppression
from handler.whisper.model import Whisper
from handler.whisper.results import ResultBuilder
from handler.whisper.sequence_starter import SequenceStarter
from handler.whisper.step import Step
from handler.whisper.step_graphs import StepGraphs, capture_graphs
from handler.whisper.task_builder import TaskBuilder
from handler.whisper.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that share one KV cache."""

    cache: KVCache
    batch: Batch
    starter: SequenceStarter
    result_builder: ResultBuilder


class Workshop:
    """Builds these parts for one model, again and again: with fewer slots where the memory does not suffice.

    `capture` makes a graph of a step; where it is None, there are no graphs. `paged` attends in a step; where it is
    None, products with masks do.
    """

    def __init__(
        self,
        model: Whisper,
        tokenizer: Tokenizer,
        suppress: Collection[int],
        checkpoint_heads: Heads = (),
        *,
        attention: str,
        max_new_tokens: int,
        short_context: bool = False,
        capture: Capture | None = None,
        paged: PagedAttention | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        """Take what the parts have in common. Without `checkpoint_heads`, the published ones align, or likely ones."""
        assert not (short_context and (capture or paged)), "captured steps and pages have audio of one length"
        model.set_attention(attention)
        model.decoder.paged_attention = paged
        self.model = model
        self.tokenizer = tokenizer
        self.attention = attention
        self.short_context = short_context
        self.dtype = model.decoder.tokens.weight.dtype
        self.device = model.decoder.tokens.weight.device
        self.timeline = timeline or Timeline()
        self.alignment_heads = checkpoint_heads or alignment_heads(model.dims, tokenizer.specials.multilingual)
        self.task_builder = TaskBuilder(tokenizer, suppress, model.dims.n_text_ctx, self.device)
        self._max_new_tokens = max_new_tokens
        self._capture = capture
        self._bias = suppression(tokenizer.specials, suppress, self.device)

    def build(self, slots: int) -> Parts:
        """Return new parts with so many slots. Raises OutOfMemory."""
        decoder, specials = self.model.decoder, self.tokenizer.specials
        cache = self._new_cache(slots)
        step = Step(decoder, cache, self._bias, specials)
        batch = Batch(step, cache, specials, self._max_new_tokens, self._capture_graphs(step, slots))
        starter = SequenceStarter(batch, cache, decoder, self.task_builder, specials, self._bias, self.short_context)
        return Parts(cache, batch, starter, ResultBuilder(decoder, cache, self.tokenizer))

    def _new_cache(self, slots: int) -> KVCache:
        page_step = 1 if self.model.decoder.paged_attention is None else PAGE_STEP
        is_transposed = ATTENTION_KERNELS[self.attention].is_audio_transposed
        heads = self.alignment_heads
        return KVCache(self.model.dims, slots, self.device, self.dtype, heads, page_step, is_transposed)

    def _capture_graphs(self, step: Step, slots: int) -> StepGraphs | None:
        """Return the graphs of the step for up to `slots` sequences, or None. Raises OutOfMemory."""
        if self._capture is None:
            return None
        with self.timeline.span("graphs_captured"), torch.inference_mode():
            return capture_graphs(step, self.model.dims.n_text_ctx, slots, self._capture)
