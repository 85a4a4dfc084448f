"""The Whisper network: log-mel front end, encoder and decoder. Knows no file and no decoding policy.

In shapes, B is the number of sequences, T of tokens, S of audio positions, C of channels of a layer, H of heads, and D
of channels of a head. Source: openai/whisper, whisper/model.py.
"""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handler.schema.window import SAMPLE_RATE
from handler.whisper.attention import (
    ATTENTION_KERNELS,
    AttentionKernels,
    CrossAttention,
    PagedAttention,
    Pages,
    SelfAttention,
    SharedAudio,
    merge_heads,
    split_heads,
)
from handler.whisper.dims import FRAMES_PER_POSITION, HOP_LENGTH, N_FFT, Dims
from handler.whisper.kv_cache import KVCache
from handler.whisper.layers import Conv1d, Embedding, LayerNorm, Linear, PackedLogits, QuantizedLogits, can_pack

DYNAMIC_RANGE = 8.0  # powers of ten (80 dB); quieter values are raised to this distance below the window's peak


def mel_filters(n_mels: int) -> Tensor:
    """Return Slaney's mel filter bank with area normalization, as float32 [n_mels, N_FFT // 2 + 1].

    The mel scale is linear up to 1 kHz and logarithmic above. The filters cover 0 Hz to half the sampling rate. The
    result equals that of librosa.filters.mel with its default options.
    """
    hz_per_mel, min_log_hz, log_step = 200 / 3, 1000.0, math.log(6.4) / 27
    min_log_mel = min_log_hz / hz_per_mel

    def to_hz(mel: Tensor) -> Tensor:
        logarithmic = min_log_hz * torch.exp(log_step * (mel - min_log_mel))
        return torch.where(mel < min_log_mel, mel * hz_per_mel, logarithmic)

    max_mel = min_log_mel + math.log(SAMPLE_RATE / 2 / min_log_hz) / log_step
    edges = to_hz(torch.linspace(0, max_mel, n_mels + 2, dtype=torch.float64))
    bins = torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)
    slopes = edges[:, None] - bins  # [n_mels + 2, bins]
    width = edges.diff()[:, None]
    rising, falling = -slopes[:-2] / width[:-1], slopes[2:] / width[1:]
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])[:, None]).float()


class LogMel(nn.Module):
    """Converts samples to log-mel spectrograms of the kind that the encoder was trained on, in float32."""

    filters: Tensor
    hann_window: Tensor

    def __init__(self, n_mels: int, device: torch.device) -> None:
        super().__init__()
        # Each filter appears twice in a row, so that one product adds up the squares of real and imaginary part.
        filters = mel_filters(n_mels).repeat_interleave(2, 1).T.contiguous()
        self.register_buffer("filters", filters.to(device))
        self.register_buffer("hann_window", torch.hann_window(N_FFT, device=device))

    def forward(self, samples: Tensor) -> Tensor:
        """Convert samples [B, n] in [-1, 1] to mel frames [B, n_mels, n / HOP_LENGTH].

        All rows have the same length n, a multiple of HOP_LENGTH; the caller pads shorter windows with silence.
        """
        spectrum = torch.stft(samples, N_FFT, HOP_LENGTH, window=self.hann_window, return_complex=True)
        real_imag = torch.view_as_real(spectrum.transpose(1, 2)[:, :-1]).flatten(2)  # [B, frames, 2 * bins]
        log_mel = ((real_imag * real_imag) @ self.filters).clamp_(min=1e-10).log10_()  # [B, frames, n_mels]
        log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE)
        return ((log_mel + 4.0) / 4.0).transpose(1, 2)


class Mlp(nn.Module):
    """The feed-forward block of a layer: two linear layers with a GELU between them."""

    def __init__(self, state: int) -> None:
        super().__init__()
        self.up = Linear(state, 4 * state)
        self.down = Linear(4 * state, state)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return `residual` plus the output of the block for x. `residual`, x and the result are [..., C]."""
        return self.down.add_to(residual, self.up.gelu(x))


def clamp_half(x: Tensor) -> Tensor:
    """Clamp float16 states of the encoder to finite values, as `transformers` does. Return other dtypes unchanged."""
    return x.clamp(-64_504.0, 64_504.0) if x.dtype == torch.float16 else x


class EncoderLayer(nn.Module):
    """An encoder layer: self-attention and feed-forward block, each preceded by a layer norm."""

    def __init__(self, state: int, heads: int) -> None:
        super().__init__()
        self.attn_norm = LayerNorm(state)
        self.attn = SelfAttention(state, heads)
        self.mlp_norm = LayerNorm(state)
        self.mlp = Mlp(state)

    def forward(self, x: Tensor, attention: AttentionKernels) -> Tensor:
        """Apply the layer to audio positions [B, S, C], and return a tensor of the same shape."""
        q, k, v = self.attn.project(self.attn_norm(x))
        x = self.attn.out.add_to(x, merge_heads(attention.unmasked(q, k, v)))
        return clamp_half(self.mlp.add_to(x, self.mlp_norm(x)))


class Encoder(nn.Module):
    """The encoder, which turns log-mel frames into hidden states of audio positions."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        state = dims.n_audio_state
        self.conv1 = Conv1d(dims.n_mels, state, 3, padding=1)
        self.conv2 = Conv1d(state, state, 3, stride=FRAMES_PER_POSITION, padding=1)
        self.positions = nn.Parameter(torch.empty(dims.n_audio_ctx, state))
        layers = (EncoderLayer(state, dims.n_audio_head) for _ in range(dims.n_audio_layer))
        self.layers = cast("Sequence[EncoderLayer]", nn.ModuleList(layers))
        self.norm = LayerNorm(state)
        self.attention = ATTENTION_KERNELS["sdpa"]

    def forward(self, mel: Tensor) -> Tensor:
        """Encode mel frames [B, n_mels, 2 * S], and return hidden states [B, S, C]."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)  # [B, S, C]
        # Sums keep the layout of their first operand: without `contiguous`, every norm would read across its rows.
        x = x.contiguous() + self.positions[: x.shape[1]]
        with self.attention.encoder_context():
            for layer in self.layers:
                x = layer(x, self.attention)
        return self.norm(x)


class DecoderLayer(nn.Module):
    """A decoder layer: self-attention over the text, cross-attention over the audio, and a feed-forward block."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        state = dims.n_text_state
        self.attn_norm = LayerNorm(state)
        self.attn = SelfAttention(state, dims.n_text_head)
        self.cross_norm = LayerNorm(state)
        self.cross = CrossAttention(state, dims.n_audio_state, dims.n_text_head)
        self.mlp_norm = LayerNorm(state)
        self.mlp = Mlp(state)

    def text_query(self, x: Tensor, kv: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Write the keys and values of x to the cache, and return the queries of the self-attention, [B, H, T, D].

        x [B, T, C] holds hidden states, `positions` [B, T] their text positions, and `rows` [B, 1] the numbers 0 to
        B − 1. `kv` [2, B, H, n_text_ctx, D] holds the cache's keys and values.
        """
        q, new_kv = self.attn.project_for_cache(self.attn_norm(x))
        kv[:, rows, :, positions] = new_kv
        return q

    def add_self_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return x [B, T, C] plus the projection of what its queries have attended to, [B, H, T, D]."""
        return self.attn.out.add_to(x, merge_heads(attended))

    def cross_query(self, x: Tensor) -> Tensor:
        """Return the queries of the cross-attention, [B, H, T, D], for hidden states x [B, T, C]."""
        return split_heads(self.cross.q(self.cross_norm(x)), self.cross.heads)

    def add_cross_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return x [B, T, C] plus the projection of what its queries have attended to, [B, H, T, D]."""
        return self.cross.out.add_to(x, merge_heads(attended))


Attend = Callable[[int, Tensor], Tensor]  # a layer's number, and its queries [B, H, T, D], to what they attended to


class Decoder(nn.Module):
    """The decoder, which turns tokens and the KV cache of their sequences into hidden states and logits."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.tokens = Embedding(dims.n_vocab, dims.n_text_state)
        self.positions = nn.Parameter(torch.empty(dims.n_text_ctx, dims.n_text_state))
        layers = (DecoderLayer(dims) for _ in range(dims.n_text_layer))
        self.layers = cast("Sequence[DecoderLayer]", nn.ModuleList(layers))
        self.norm = LayerNorm(dims.n_text_state)
        self.packed_logits: PackedLogits | QuantizedLogits | None = None
        self.paged_attention: PagedAttention | None = None  # for one token a sequence, where the KV cache has pages
        self.attention = ATTENTION_KERNELS["sdpa"]

    def cross_kv(self, audio: Tensor) -> list[list[Tensor]]:
        """Return the cross-attention keys and values of each layer for encoded windows. [n, S, C] to [n, H, S, D]"""
        return [layer.cross.keys_values(audio) for layer in self.layers]

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        cache: KVCache,
        slots: slice,
        text_length: int,
        audio: slice | SharedAudio,
        num_layers: int | None = None,
    ) -> Tensor:
        """Return the hidden states [B, T, C] of `tokens` [B, T] at text `positions` [B, T].

        Row b belongs to the b-th of `slots`. The keys and values of each token are written to the token's slot of the
        cache, and a token attends to all positions of that slot up to the token's own position. Attention reads the
        first `text_length` positions of the cache, so `text_length` must exceed every position. `audio` tells which
        audio slots the sequences attend to: one each, if it is a slice.

        The cross-attention queries of the alignment heads are written to the cache as well. To have only these, the
        decoder may stop after `num_layers`; what it returns is then of no use.
        """
        x = self.tokens(tokens) + self.positions[positions]
        rows = torch.arange(len(x), device=x.device)[:, None]
        if tokens.shape[1] == 1 and self.paged_attention is not None:
            attend_to_text, attend_to_audio = self._by_pages(self.paged_attention, cache, slots, positions, audio)
        else:
            attend_to_text, attend_to_audio = self._by_masks(cache, slots, positions, text_length, audio)
        for index, layer in enumerate(self.layers[:num_layers]):
            q = layer.text_query(x, cache.text_kv[index, :, slots], rows, positions)
            x = layer.add_self_attention(x, attend_to_text(index, q))
            q = layer.cross_query(x)
            cache.alignment.keep(index, slots, rows, positions, q)
            x = layer.add_cross_attention(x, attend_to_audio(index, q))
            x = layer.mlp.add_to(x, layer.mlp_norm(x))
        return self.norm(x)

    def _by_masks(
        self, cache: KVCache, slots: slice, positions: Tensor, text_length: int, audio: slice | SharedAudio
    ) -> tuple[Attend, Attend]:
        """Return functions that attend to the text and to the audio with masks over all positions that are read."""
        shared = audio if isinstance(audio, SharedAudio) else None
        audio_slots = audio.slots if isinstance(audio, SharedAudio) else audio
        is_future = torch.arange(text_length, device=positions.device) > positions[:, None, :, None]
        dtype = self.tokens.weight.dtype
        causal_mask = torch.zeros(is_future.shape, device=positions.device, dtype=dtype)  # [B, 1, T, text_length]
        causal_mask.masked_fill_(is_future, -torch.inf)
        audio_mask = cache.cross_mask(audio_slots)

        def attend_to_text(layer: int, q: Tensor) -> Tensor:
            k, v = (buffer[:, :, :text_length] for buffer in cache.text_kv[layer, :, slots])
            return self.attention.masked(q, k, v, causal_mask)

        def attend_to_audio(layer: int, q: Tensor) -> Tensor:
            k, v = (buffer[audio_slots] for buffer in cache.cross_kv(layer))
            if shared is None:
                return self.attention.masked(q, k, v, audio_mask)
            return shared.part(self.attention.masked(shared.join(q), k, v, audio_mask))

        return attend_to_text, attend_to_audio

    def _by_pages(
        self, paged: PagedAttention, cache: KVCache, slots: slice, positions: Tensor, audio: slice | SharedAudio
    ) -> tuple[Attend, Attend]:
        """Return functions that attend to the text and to the audio by a kernel that reads a page for each sequence.

        The kernel reads no further than each text goes, and each audio once however many sequences attend to it.
        """
        device, count = positions.device, len(positions)
        number = torch.arange(count + 1, device=device, dtype=torch.int32)
        text_lengths = (positions[:, 0] + 1).int()
        audio_lengths = torch.full_like(text_lengths, cache.audio_length)
        if isinstance(audio, SharedAudio):
            audio_pages = (audio.rows + audio.slots.start).int()
        else:
            audio_pages = number[:count] + audio.start
        text = Pages((number[:count] + slots.start)[:, None], text_lengths, number, cache.context)
        sound = Pages(audio_pages[:, None], audio_lengths, number, cache.audio_length)

        def attend_to_text(layer: int, q: Tensor) -> Tensor:
            return paged(q, *cache.text_pages(layer), text)

        def attend_to_audio(layer: int, q: Tensor) -> Tensor:
            return paged(q, *cache.audio_pages(layer), sound)

        return attend_to_text, attend_to_audio

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [B, n_vocab] for hidden states [B, C].

        If the logits are quantized, all logits of a sequence are off by a common constant, which changes no
        probability.
        """
        if self.packed_logits is not None:
            return self.packed_logits(hidden)
        weight = self.tokens.weight
        if hidden.device.type == "cuda" and hidden.dtype != torch.float32:  # sums are float32 and stay so
            return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
        return F.linear(hidden, weight).float()

    def logprobs_of(self, tokens: Sequence[int], hidden: Tensor) -> list[float]:
        """Return the log-probability of each token, given the hidden states [len(tokens), C] that predict them."""
        told = torch.tensor(tokens, device=hidden.device)
        logprobs: list[float] = self.logits(hidden).log_softmax(-1).gather(1, told[:, None])[:, 0].tolist()
        return logprobs


class Whisper(nn.Module):
    """The encoder and decoder of one checkpoint.

    Build the module on the meta device, and assign the loaded tensors with `load_state_dict(..., assign=True)`.
    """

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.dims = dims
        self.encoder = Encoder(dims)
        self.decoder = Decoder(dims)

    def set_attention(self, name: str) -> None:
        """Use the attention kernels that ATTENTION_KERNELS lists under `name`."""
        self.encoder.attention = self.decoder.attention = ATTENTION_KERNELS[name]

    def pack(self) -> "Whisper":
        """Rearrange the weights for fast products on a CPU, and return self.

        The weights of the logits are quantized where they are bfloat16. Changes nothing unless the weights are on a CPU
        that has kernels for rearranged weights of their dtype.
        """
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack()
        weight = self.decoder.tokens.weight
        if can_pack(weight):
            is_short = weight.dtype == torch.bfloat16
            self.decoder.packed_logits = (
                QuantizedLogits(weight, self.decoder.norm.weight) if is_short else PackedLogits(weight)
            )
        return self
