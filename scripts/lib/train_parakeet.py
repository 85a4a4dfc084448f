"""Train a Parakeet CTC of 1.7 million parameters that knows the clips of the tests by heart, and nothing else.

    python -m scripts.lib.train_parakeet tests/assets/parakeet [MINUTES]

It proves that a folder of the Hub is read, and that its text and times are right, on real speech to the word. The clips
are those of tests/assets/clips; each is trained with more or less silence around it, and the two words of the start's
recording as well.
"""

import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ParakeetCTCConfig, ParakeetFeatureExtractor, ParakeetForCTC, ParakeetProcessor
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from handler.schema.window import SAMPLE_RATE
from handler.startup.check_speech import PATH, WORDS
from tests.support.clips import clips
from tests.support.word_errors import plain_words

ENCODER = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "conv_kernel_size": 9,
    "subsampling_conv_channels": 64,
    "num_mel_bins": 80,
    "max_position_embeddings": 512,
    **dict.fromkeys(("dropout", "layerdrop", "activation_dropout", "attention_dropout"), 0.0),
}
NUM_PIECES = 256
LEARNING_RATE, WARM_UP_STEPS = 1.5e-3, 60
GOOD_LOSS = 0.004  # from which all clips are right
GROUPS = 4  # of clips of about the same length, one a step
MAX_SILENCE_S = 0.4  # added to or cut off at either end

Samples = NDArray[np.float32]


def load_clips() -> list[tuple[Samples, str]]:
    """Return the samples and the words of each clip, shortest first."""
    found = [(clip.samples, plain_words(clip.text)) for clip in clips()]
    found.append((soundfile.read(PATH, dtype="float32")[0], " ".join(WORDS)))
    return sorted(found, key=lambda clip: len(clip[0]))


def make_tokenizer(texts: list[str]) -> ParakeetTokenizer:
    """Return a vocabulary of pieces of these texts; the blank comes last, as in NVIDIA's checkpoints."""
    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=NUM_PIECES, special_tokens=["<unk>"], show_progress=False)
    pieces.train_from_iterator(texts, trainer)
    pieces.add_special_tokens(["<pad>"])
    return ParakeetTokenizer(tokenizer_object=pieces, unk_token="<unk>", pad_token="<pad>")


def varied(samples: Samples, chance: np.random.Generator) -> Samples:
    """Return a clip with some silence added or cut off at both ends."""
    limit = round(MAX_SILENCE_S * SAMPLE_RATE)
    quiet = np.abs(samples) < 0.02
    lead, tail = int(np.argmin(quiet)), int(np.argmin(quiet[::-1]))
    start, end = (int(chance.integers(-limit, min(limit, silent) + 1)) for silent in (lead, tail))
    cut = samples[max(0, start) : len(samples) - max(0, end)]
    return np.pad(cut, (max(0, -start), max(0, -end)))


def train(
    processor: ParakeetProcessor, model: ParakeetForCTC, clips: list[tuple[Samples, str]], minutes: float
) -> None:
    """Train until the loss is good or time is up."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    chance = np.random.default_rng(0)
    started, step, loss = time.monotonic(), 0, float("inf")
    while loss > GOOD_LOSS and time.monotonic() - started < 60 * minutes:
        losses = []
        for group in (clips[first::GROUPS] for first in range(GROUPS)):
            audio = [samples if step % 3 == 0 else varied(samples, chance) for samples, _ in group]
            inputs = processor(audio, text=[text for _, text in group], sampling_rate=SAMPLE_RATE)
            inputs.pop("decoder_input_ids", None)
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP_STEPS)
            optimizer.zero_grad()
            output = model.train()(**inputs).loss
            output.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(output.item())
            step += 1
        loss = sum(losses) / GROUPS
        if step % (10 * GROUPS) == 0:
            print(f"{time.monotonic() - started:6.0f} s, step {step}: loss {loss:.4f}", flush=True)


def main(target: Path, minutes: float) -> None:
    """Train, and write the folder."""
    torch.manual_seed(0)
    examples = load_clips()
    tokenizer = make_tokenizer([text for _, text in examples])
    processor = ParakeetProcessor(ParakeetFeatureExtractor(feature_size=80), tokenizer, decoder_type="ctc")
    config = ParakeetCTCConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, encoder_config=ENCODER)
    model = ParakeetForCTC(config)
    train(processor, model, examples, minutes)
    model.eval().half().save_pretrained(target)
    processor.save_pretrained(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 15)
