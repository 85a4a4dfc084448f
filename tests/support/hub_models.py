"""Checkpoints with random weights of the families of `transformers`, so small that a test writes them in no time."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
WAVE_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16, 16, 16, 16, 16),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
MEL_ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "conv_kernel_size": 9,
    "subsampling_conv_channels": 8,
    "num_mel_bins": 80,
    "max_position_embeddings": 512,
}


def letters_tokenizer(folder: Path) -> Wav2Vec2CTCTokenizer:
    """Return the vocabulary of a wav2vec2 model: letters, and a token between words."""
    names = ("<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS)
    file = folder / "vocab.json"
    file.write_text(json.dumps({name: index for index, name in enumerate(names)}))
    return Wav2Vec2CTCTokenizer(str(file))


def pieces_tokenizer(blank: str = "<pad>") -> PreTrainedTokenizerFast:
    """Return a vocabulary of pieces, some of which begin a word. The blank comes last."""
    names = ["<unk>", *LETTERS, *(f"\u2581{letter}" for letter in LETTERS), "."]
    backend = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(sorted({"<pad>", blank}, reverse=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")


def _wave_processor(folder: Path, masks: bool) -> None:
    """Write a feature extractor that leaves samples as they are but for their scale, and letters."""
    Wav2Vec2FeatureExtractor(return_attention_mask=masks).save_pretrained(folder)
    letters_tokenizer(folder).save_pretrained(folder)


def _save_wave_ctc(folder: Path, model_type: str, **changes: Any) -> None:
    from transformers import AutoConfig, AutoModelForCTC

    if model_type.startswith("sew"):
        changes = {"conv_dim": (16,) * 13, "squeeze_factor": 2, **changes}
    values = {
        **WAVE_ENCODER,
        "vocab_size": 5 + len(LETTERS),
        "pad_token_id": 0,
        "feat_extract_norm": "layer",
        **changes,
    }
    config = AutoConfig.for_model(model_type, **values)
    AutoModelForCTC.from_config(config).save_pretrained(folder)
    _wave_processor(folder, masks=config.feat_extract_norm == "layer")


def _save_wav2vec2_bert(folder: Path) -> None:
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertForCTC

    sizes = {name: WAVE_ENCODER[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = Wav2Vec2BertConfig(**sizes, intermediate_size=48, vocab_size=5 + len(LETTERS), pad_token_id=0)
    Wav2Vec2BertForCTC(config).save_pretrained(folder)
    SeamlessM4TFeatureExtractor().save_pretrained(folder)
    letters_tokenizer(folder).save_pretrained(folder)


def _save_parakeet_ctc(folder: Path) -> None:
    from transformers import ParakeetCTCConfig, ParakeetFeatureExtractor, ParakeetForCTC

    tokenizer = pieces_tokenizer()
    config = ParakeetCTCConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, encoder_config=MEL_ENCODER
    )
    ParakeetForCTC(config).save_pretrained(folder)
    ParakeetFeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_lasr_ctc(folder: Path) -> None:
    from transformers import LasrCTCConfig, LasrFeatureExtractor, LasrForCTC

    tokenizer = pieces_tokenizer()
    encoder = {**MEL_ENCODER, "num_mel_bins": 128, "head_dim": 16}
    config = LasrCTCConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, encoder_config=encoder)
    LasrForCTC(config).save_pretrained(folder)
    LasrFeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_omniasr_ctc(folder: Path) -> None:
    from transformers import OmniASRCTCConfig, OmniASRFeatureExtractor, OmniASRForCTC

    tokenizer = pieces_tokenizer()
    config = OmniASRCTCConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, audio_config={**WAVE_ENCODER}
    )
    OmniASRForCTC(config).save_pretrained(folder)
    OmniASRFeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_transducer(folder: Path, model_type: str) -> None:
    import transformers

    names = {
        "parakeet_tdt": ("ParakeetTDTConfig", "ParakeetForTDT", "ParakeetFeatureExtractor"),
        "parakeet_rnnt": ("ParakeetRNNTConfig", "ParakeetForRNNT", "ParakeetFeatureExtractor"),
        "nemotron_asr_streaming": (
            "NemotronAsrStreamingConfig",
            "NemotronAsrStreamingForRNNT",
            "NemotronAsrStreamingFeatureExtractor",
        ),
    }[model_type]
    config_class, model_class, extractor_class = (getattr(transformers, name) for name in names)
    tokenizer = pieces_tokenizer(blank="<blank>")
    extractor = extractor_class()
    config = config_class(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        blank_token_id=tokenizer.convert_tokens_to_ids("<blank>"),
        decoder_hidden_size=24,
        num_decoder_layers=1,
        encoder_config={**MEL_ENCODER, "num_mel_bins": extractor.feature_size},
    )
    model = model_class(config)
    scales = {model.joint.head: 0.3, model.encoder_projector: 1.0, model.decoder.decoder_projector: 1.0}
    for part, scale in {**scales, model.decoder.embedding: 1.0}.items():  # or one token would win in all frames
        torch.nn.init.normal_(part.weight, std=scale)
    model.joint.head.bias.data[config.blank_token_id] = 1.5 if model_type == "parakeet_tdt" else 4.0
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


WAVE_CTC = (
    *("data2vec-audio", "hubert", "sew", "sew-d", "unispeech", "unispeech-sat", "wav2vec2"),
    *("wav2vec2-conformer", "wavlm"),
)
TRANSDUCERS = ("parakeet_tdt", "parakeet_rnnt", "nemotron_asr_streaming")
SAVERS: Mapping[str, Callable[[Path], None]] = {
    **{model_type: partial(_save_wave_ctc, model_type=model_type) for model_type in WAVE_CTC},
    "wav2vec2-bert": _save_wav2vec2_bert,
    "parakeet_ctc": _save_parakeet_ctc,
    "lasr_ctc": _save_lasr_ctc,
    "omniasr_ctc": _save_omniasr_ctc,
    **{model_type: partial(_save_transducer, model_type=model_type) for model_type in TRANSDUCERS},
}


def save_model(model_type: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of a family with random weights into a folder, and return the folder."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    SAVERS[model_type](folder)
    return folder
