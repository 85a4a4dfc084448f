"""The Whisper network: log-mel front end, encoder, decoder. Tensors in, tensors out; no I/O and no decoding policy.

B sequences, T tokens, S audio positions, C channels of a layer, H heads, D channels of a head. Source: openai/whisper,
whisper/model.py.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handler.schema.window import SAMPLE_RATE
from handler.whisper.attention import (
    ATTENTION_KERNELS,
    AttentionKernels,
    AttentionRecorder,
    CrossAttention,
    SelfAttention,
    merge_heads,
    split_heads,
)
from handler.whisper.dims import FRAMES_PER_POSITION, HOP_LENGTH, N_FFT, Dims
from handler.whisper.kv_cache import KVCache
from handler.whisper.layers import Conv1d, Embedding, LayerNorm, Linear, QuantizedLogits, can_pack

DYNAMIC_RANGE = 8.0  # powers of ten, 80 dB, below each window's own peak


def mel_filters(n_mels: int) -> Tensor:
    """Return Slaney's mel filter bank with area normalization. [n_mels, N_FFT // 2 + 1], float32.

    Linear up to 1 kHz, logarithmic above, from 0 Hz to half the sampling rate, as librosa.filters.mel by default.
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
    """Converts samples to the log-mel spectrogram that the encoder was trained on, in float32."""

    filters: Tensor
    hann_window: Tensor

    def __init__(self, n_mels: int, device: torch.device) -> None:
        super().__init__()
        # Each filter twice in a row, for the real and the imaginary part: the product adds up their squares.
        filters = mel_filters(n_mels).repeat_interleave(2, 1).T.contiguous()
        self.register_buffer("filters", filters.to(device))
        self.register_buffer("hann_window", torch.hann_window(N_FFT, device=device))

    def forward(self, samples: Tensor) -> Tensor:
        """samples [B, n] in [-1, 1], padded to full windows → [B, n_mels, n / HOP_LENGTH]."""
        spectrum = torch.stft(samples, N_FFT, HOP_LENGTH, window=self.hann_window, return_complex=True)
        real_imag = torch.view_as_real(spectrum.transpose(1, 2)[:, :-1]).flatten(2)  # [B, frames, 2 * bins]
        log_mel = ((real_imag * real_imag) @ self.filters).clamp_(min=1e-10).log10_()  # [B, frames, n_mels]
        log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE)
        return ((log_mel + 4.0) / 4.0).transpose(1, 2)


class Mlp(nn.Module):
    """The two products after attention."""

    def __init__(self, state: int) -> None:
        super().__init__()
        self.up = Linear(state, 4 * state)
        self.down = Linear(4 * state, state)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return the sum of `residual` and the transformed x. [..., C] each → the same."""
        return self.down.add_to(residual, self.up.gelu(x))


def clamp_half(x: Tensor) -> Tensor:
    """Keep float16 hidden states finite, as `transformers` does; return other dtypes unchanged."""
    return x.clamp(-64_504.0, 64_504.0) if x.dtype == torch.float16 else x


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each after a layer norm."""

    def __init__(self, state: int, heads: int) -> None:
        super().__init__()
        self.attn_norm = LayerNorm(state)
        self.attn = SelfAttention(state, heads)
        self.mlp_norm = LayerNorm(state)
        self.mlp = Mlp(state)

    def forward(self, x: Tensor, attention: AttentionKernels) -> Tensor:
        """[B, S, C] → [B, S, C]."""
        q, k, v = self.attn.project(self.attn_norm(x))
        x = self.attn.out.add_to(x, merge_heads(attention.unmasked(q, k, v)))
        return clamp_half(self.mlp.add_to(x, self.mlp_norm(x)))


class Encoder(nn.Module):
    """Log-mel frames to audio positions."""

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
        """mel [B, n_mels, 2 * S] → [B, S, C]."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)  # [B, S, C]
        x = x + self.positions[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, self.attention)
        return self.norm(x)


class DecoderLayer(nn.Module):
    """Self-attention over the text so far, cross-attention over the audio, MLP."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        state = dims.n_text_state
        self.attn_norm = LayerNorm(state)
        self.attn = SelfAttention(state, dims.n_text_head)
        self.cross_norm = LayerNorm(state)
        self.cross = CrossAttention(state, dims.n_audio_state, dims.n_text_head)
        self.mlp_norm = LayerNorm(state)
        self.mlp = Mlp(state)

    def self_attention(
        self, x: Tensor, kv: tuple[Tensor, Tensor], positions: Tensor, mask: Tensor, attention: AttentionKernels
    ) -> Tensor:
        """Write the keys and values of x [B, T, C] to `kv` at `positions` [B, T], then attend to the text. [B, T, C]

        kv: the cache's keys and values, [B, H, n_text_ctx, D] each; mask [B, 1, T, text_length].
        """
        q, k, v = self.attn.project(self.attn_norm(x))
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        for buffer, values in zip(kv, (k, v), strict=True):
            buffer[rows, :, positions] = values.transpose(1, 2)  # [B, T, H, D]
        k, v = (buffer[:, :, : mask.shape[-1]] for buffer in kv)
        return self.attn.out.add_to(x, merge_heads(attention.masked(q, k, v, mask)))

    def cross_query(self, x: Tensor) -> Tensor:
        """Return the queries of the cross-attention. x [B, T, C] → [B, H, T, D]."""
        return split_heads(self.cross.q(self.cross_norm(x)), self.cross.heads)

    def cross_attention(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, attention: AttentionKernels
    ) -> Tensor:
        """Attend to the audio. x [B, T, C]; q [B, H, T, D]; k and v [B, H, S, D]; mask [B, 1, 1, S] → [B, T, C]."""
        return self.cross.out.add_to(x, merge_heads(attention.masked(q, k, v, mask)))


class Decoder(nn.Module):
    """Tokens, with the KV cache of their slots, to hidden states and logits."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.tokens = Embedding(dims.n_vocab, dims.n_text_state)
        self.positions = nn.Parameter(torch.empty(dims.n_text_ctx, dims.n_text_state))
        layers = (DecoderLayer(dims) for _ in range(dims.n_text_layer))
        self.layers = cast("Sequence[DecoderLayer]", nn.ModuleList(layers))
        self.norm = LayerNorm(dims.n_text_state)
        self.quantized_logits: QuantizedLogits | None = None
        self.attention = ATTENTION_KERNELS["sdpa"]

    def write_cross_kv(self, audio: Tensor, cache: KVCache, slots: slice) -> None:
        """Write the cross-attention keys and values of audio [n, S, C] to `slots`, equally many for each audio."""
        for index, layer in enumerate(self.layers):
            cache.write_cross_kv(index, slots, *layer.cross.keys_values(audio))

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        cache: KVCache,
        slots: slice,
        text_length: int,
        recorder: AttentionRecorder | None = None,
    ) -> Tensor:
        """Return the hidden states of tokens [B, T] at positions [B, T]. [B, T, C]

        `text_length` exceeds every position. Each token's keys and values are written to its slot; a token attends to
        the positions up to its own. A `recorder` gets the cross-attention of each layer; the layers after the last one
        that it needs are skipped, and the result means nothing.
        """
        x = self.tokens(tokens) + self.positions[positions]
        is_future = torch.arange(text_length, device=x.device) > positions[:, None, :, None]  # [B, 1, T, text_length]
        causal_mask = torch.zeros(is_future.shape, device=x.device, dtype=x.dtype).masked_fill_(is_future, -torch.inf)
        audio_mask = cache.audio_mask[slots, None, None, : cache.audio_length]
        for index, layer in enumerate(self.layers):
            text_kv = (cache.k[index, slots], cache.v[index, slots])
            x = layer.self_attention(x, text_kv, positions, causal_mask, self.attention)
            q, (k, v) = layer.cross_query(x), (buffer[slots] for buffer in cache.cross_kv(index))
            if recorder is not None:
                recorder.record(index, q, k)
                if index == recorder.last_layer:
                    return x
            x = layer.cross_attention(x, q, k, v, audio_mask, self.attention)
            x = clamp_half(layer.mlp.add_to(x, layer.mlp_norm(x)))
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """[B, C] → [B, n_vocab], float32; from a packed network up to a constant for each sequence."""
        if self.quantized_logits is not None:
            return self.quantized_logits(hidden)
        return F.linear(hidden, self.tokens.weight).float()


class Whisper(nn.Module):
    """Encoder and decoder of one checkpoint. Build it on the meta device and assign the loaded tensors."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.dims = dims
        self.encoder = Encoder(dims)
        self.decoder = Decoder(dims)

    def set_attention(self, name: str) -> None:
        """Use the kernels of this name in ATTENTION_KERNELS."""
        self.encoder.attention = self.decoder.attention = ATTENTION_KERNELS[name]

    def pack(self) -> "Whisper":
        """Lay the weights out for the processor that they are on; return the network itself."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack()
        if can_pack(self.decoder.tokens.weight):
            self.decoder.quantized_logits = QuantizedLogits(self.decoder.tokens.weight, self.decoder.norm.weight)
        return self
