"""The Whisper network: log-mel front end, encoder, decoder. Tensors in, tensors out; no I/O and no decoding policy.

B batch rows, T tokens, S audio positions, C channels of a layer, H heads, D channels of a head. Source: openai/whisper, whisper/model.py.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handler.schema.window import SAMPLE_RATE
from handler.whisper.attention import ATTENTIONS, Attention, CrossAttention, AttentionRecorder, SelfAttention, merge_heads, split_heads
from handler.whisper.dims import FRAMES_PER_POSITION, HOP_LENGTH, N_FFT, Dims
from handler.whisper.kv_cache import Cache
from handler.whisper.layers import Convolution, Embedding, Linear, Norm, Vocabulary, packs


def mel_filters(n_mels: int) -> Tensor:
    """Slaney's mel filter bank with area normalisation. [n_mels, N_FFT // 2 + 1], float32.

    Linear up to 1 kHz, logarithmic above, from 0 Hz to half the sampling rate, as librosa.filters.mel makes it by default.
    """
    hz_per_mel, bend_hz, log_step = 200 / 3, 1000.0, math.log(6.4) / 27
    bend_mel = bend_hz / hz_per_mel

    def to_hz(mel: Tensor) -> Tensor:
        return torch.where(mel < bend_mel, mel * hz_per_mel, bend_hz * torch.exp(log_step * (mel - bend_mel)))

    top = bend_mel + math.log(SAMPLE_RATE / 2 / bend_hz) / log_step
    edges = to_hz(torch.linspace(0, top, n_mels + 2, dtype=torch.float64))
    bins = torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)
    slopes = edges[:, None] - bins  # [n_mels + 2, bins]
    width = edges.diff()[:, None]
    rising, falling = -slopes[:-2] / width[:-1], slopes[2:] / width[1:]
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])[:, None]).float()


class LogMel(nn.Module):
    """Samples to the log-mel spectrogram that the encoder was trained on, in float32."""

    filters: Tensor
    taper: Tensor

    def __init__(self, n_mels: int, device: torch.device) -> None:
        super().__init__()
        # Each filter twice in a row, for the real and for the imaginary part: their squares are added up by the product.
        self.register_buffer("filters", mel_filters(n_mels).repeat_interleave(2, 1).T.contiguous().to(device))
        self.register_buffer("taper", torch.hann_window(N_FFT, device=device))

    def forward(self, samples: Tensor) -> Tensor:
        """samples [B, n] in [-1, 1], padded to whole windows → [B, n_mels, n / HOP_LENGTH]."""
        spectrum = torch.stft(samples, N_FFT, HOP_LENGTH, window=self.taper, return_complex=True)
        parts = torch.view_as_real(spectrum.transpose(1, 2)[:, :-1]).flatten(2)  # [B, frames, 2 * bins]
        log = ((parts * parts) @ self.filters).clamp_(min=1e-10).log10_()  # [B, frames, n_mels]
        log = torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - 8.0)  # 80 dB below each window's own peak
        return ((log + 4.0) / 4.0).transpose(1, 2)


class Mlp(nn.Module):
    """The two products after attention."""

    def __init__(self, state: int) -> None:
        super().__init__()
        self.up = Linear(state, 4 * state)
        self.down = Linear(4 * state, state)

    def added(self, x: Tensor, to: Tensor) -> Tensor:
        """`to` and what becomes of x. [..., C] each → the same."""
        return self.down.added(self.up.gelu(x), to)


def clamp_half(x: Tensor) -> Tensor:
    """Keep float16 hidden states finite, as `transformers` does; other dtypes pass."""
    return x.clamp(-64_504.0, 64_504.0) if x.dtype == torch.float16 else x


class EncoderLayer(nn.Module):
    """Self-attention and mlp, each behind its norm."""

    def __init__(self, state: int, heads: int) -> None:
        super().__init__()
        self.attn_norm = Norm(state)
        self.attn = SelfAttention(state, heads)
        self.mlp_norm = Norm(state)
        self.mlp = Mlp(state)

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        """[B, S, C] → [B, S, C]."""
        q, k, v = self.attn.project(self.attn_norm(x))
        x = self.attn.out.added(merge_heads(attention.whole(q, k, v)), x)
        return clamp_half(self.mlp.added(self.mlp_norm(x), x))


class Encoder(nn.Module):
    """Log-mel frames to audio positions."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        state = dims.n_audio_state
        self.conv1 = Convolution(dims.n_mels, state, 3, padding=1)
        self.conv2 = Convolution(state, state, 3, stride=FRAMES_PER_POSITION, padding=1)
        self.positions = nn.Parameter(torch.empty(dims.n_audio_ctx, state))
        layers = (EncoderLayer(state, dims.n_audio_head) for _ in range(dims.n_audio_layer))
        self.layers = cast("Sequence[EncoderLayer]", nn.ModuleList(layers))
        self.norm = Norm(state)
        self.attention = ATTENTIONS["sdpa"]

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, n_mels, 2 * S] → [B, S, C]."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)  # [B, S, C]
        x = x + self.positions[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, self.attention)
        return self.norm(x)


class DecoderLayer(nn.Module):
    """Self-attention over the text so far, cross-attention over the audio, mlp."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        state = dims.n_text_state
        self.attn_norm = Norm(state)
        self.attn = SelfAttention(state, dims.n_text_head)
        self.cross_norm = Norm(state)
        self.cross = CrossAttention(state, dims.n_audio_state, dims.n_text_head)
        self.mlp_norm = Norm(state)
        self.mlp = Mlp(state)

    def self_attention(self, x: Tensor, cache: tuple[Tensor, Tensor], positions: Tensor, bias: Tensor, attention: Attention) -> Tensor:
        """Write keys and values at `positions` [B, T] of the cache, [B, H, n_text_ctx, D] each; read as far as the bias goes."""
        q, k, v = self.attn.project(self.attn_norm(x))
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        length = bias.shape[-1]
        for buffer, new in zip(cache, (k, v), strict=True):
            buffer[rows, :, positions] = new.transpose(1, 2)  # [B, T, H, D]
        return self.attn.out.added(merge_heads(attention.biased(q, cache[0][:, :, :length], cache[1][:, :, :length], bias)), x)

    def cross_query(self, x: Tensor) -> Tensor:
        """Queries of the cross-attention. x [B, T, C] → [B, H, T, D]."""
        return split_heads(self.cross.q(self.cross_norm(x)), self.cross.heads)

    def cross_attention(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, attention: Attention) -> Tensor:
        """x [B, T, C] and what is heard: q [B, H, T, D]; k and v [B, H, S, D]; bias [B, 1, 1, S] → [B, T, C]."""
        return self.cross.out.added(merge_heads(attention.biased(q, k, v, bias)), x)


class Decoder(nn.Module):
    """Tokens, with the caches of their slots, to hidden states and logits."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.tokens = Embedding(dims.n_vocab, dims.n_text_state)
        self.positions = nn.Parameter(torch.empty(dims.n_text_ctx, dims.n_text_state))
        self.layers = cast("Sequence[DecoderLayer]", nn.ModuleList(DecoderLayer(dims) for _ in range(dims.n_text_layer)))
        self.norm = Norm(dims.n_text_state)
        self.vocabulary: Vocabulary | None = None
        self.attention = ATTENTIONS["sdpa"]

    def write_cross_kv(self, audio: Tensor, cache: Cache, slots: slice) -> None:
        """Fill the cross-attention keys and values of `slots` from the encoder's audio [n, S, C], n parts of equally many slots."""
        for index, layer in enumerate(self.layers):
            cache.write_cross_kv(index, slots, *layer.cross.keys_values(audio))

    def forward(
        self, tokens: Tensor, positions: Tensor, cache: Cache, slots: slice, text: int, recorder: AttentionRecorder | None = None
    ) -> Tensor:
        """Hidden states of tokens [B, T] at positions [B, T] → [B, T, C].

        `text` exceeds every position. Each token's keys and values are written to its slot; a token sees the positions up
        to its own. `listening` hears every cross-attention; behind the last layer that it listens to, nothing is worked out.
        """
        x = self.tokens(tokens) + self.positions[positions]
        ahead = torch.arange(text, device=x.device) > positions[:, None, :, None]  # [B, 1, T, text]
        unread = torch.zeros(ahead.shape, device=x.device, dtype=x.dtype).masked_fill_(ahead, -torch.inf)
        audio_mask = cache.audio_mask[slots, None, None, : cache.audio]
        for index, layer in enumerate(self.layers):
            x = layer.self_attention(x, (cache.k[index, slots], cache.v[index, slots]), positions, unread, self.attention)
            q, (k, v) = layer.cross_query(x), (part[slots] for part in cache.heard(index))
            if recorder is not None:
                recorder.hear(index, q, k)
                if index == recorder.last:
                    return x
            x = layer.cross_attention(x, q, k, v, audio_mask, self.attention)
            x = clamp_half(layer.mlp.added(layer.mlp_norm(x), x))
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """[B, C] → [B, n_vocab], float32; of the packed network less the same for all tokens of a row."""
        if self.vocabulary is not None:
            return self.vocabulary(hidden)
        return F.linear(hidden, self.tokens.weight).float()


class Whisper(nn.Module):
    """Front end, encoder and decoder of one checkpoint. Build it on the meta device and assign the loaded tensors."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.dims = dims
        self.encoder = Encoder(dims)
        self.decoder = Decoder(dims)

    def attend_by(self, name: str) -> None:
        """Choose one of ATTENTIONS."""
        self.encoder.attention = self.decoder.attention = ATTENTIONS[name]

    def pack(self) -> "Whisper":
        """Lay the weights out for the processor they are on."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack()
        if packs(self.decoder.tokens.weight):
            self.decoder.vocabulary = Vocabulary(self.decoder.tokens.weight, self.decoder.norm.weight)
        return self
