"""Checkpoints with random weights of the families of `transformers`, so small that a test writes them in no time."""

import json
from collections.abc import Callable, Sequence
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


def pieces_tokenizer(blank: str = "<pad>", others: Sequence[str] = (), **names_of: Any) -> PreTrainedTokenizerFast:
    """Return a vocabulary of pieces, some of which begin a word, with other special tokens. The blank comes last."""
    names = ["<unk>", *LETTERS, *(f"\u2581{letter}" for letter in LETTERS), "."]
    backend = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([*others, *sorted({"<pad>", blank}, reverse=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", **names_of)


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
    _make_all_tokens_likely(model, 1.5 if model_type == "parakeet_tdt" else 4.0)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_granite_speech5_ctc(folder: Path) -> None:
    from transformers import GraniteSpeech5CTCConfig, GraniteSpeech5FeatureExtractor, GraniteSpeech5ForCTC

    tokenizer = pieces_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = GraniteSpeech5CTCConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        encoder_config={**sizes, "vocab_size": len(tokenizer)},
    )
    GraniteSpeech5ForCTC(config).save_pretrained(folder)
    GraniteSpeech5FeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_nemotron3_5_asr(folder: Path) -> None:
    from transformers import (
        Nemotron3_5AsrConfig,
        Nemotron3_5AsrForRNNT,
        Nemotron3_5AsrProcessor,
        NemotronAsrStreamingFeatureExtractor,
    )

    tokenizer = pieces_tokenizer(blank="<blank>")
    extractor = NemotronAsrStreamingFeatureExtractor()
    config = Nemotron3_5AsrConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        blank_token_id=tokenizer.convert_tokens_to_ids("<blank>"),
        decoder_hidden_size=24,
        num_decoder_layers=1,
        prompt_intermediate_size=32,
        encoder_config={**MEL_ENCODER, "num_mel_bins": extractor.feature_size},
    )
    model = Nemotron3_5AsrForRNNT(config)
    _make_all_tokens_likely(model, 1.5)
    model.save_pretrained(folder)
    Nemotron3_5AsrProcessor(extractor, tokenizer).save_pretrained(folder)
    extractor.save_pretrained(folder)


def _make_all_tokens_likely(model: Any, blank_bias: float) -> None:
    """Give a transducer weights with which not one token wins in all frames."""
    scales = {model.joint.head: 0.3, model.encoder_projector: 1.0, model.decoder.decoder_projector: 1.0}
    for part, scale in {**scales, model.decoder.embedding: 1.0}.items():
        torch.nn.init.normal_(part.weight, std=scale)
    model.joint.head.bias.data[model.config.blank_token_id] = blank_bias


TEXT_DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
LANGUAGE_TOKENS = ("<|en|>", "<|de|>")


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = {"pad_token_id": "<pad>", "bos_token_id": "<s>", "eos_token_id": "</s>"}
    return {field: tokenizer.convert_tokens_to_ids(name) for field, name in names.items()}


def _save_moonshine_streaming(folder: Path) -> None:
    from transformers import MoonshineStreamingConfig, MoonshineStreamingForConditionalGeneration

    tokenizer = pieces_tokenizer(others=("<s>", "</s>"), eos_token="</s>")
    encoder = {**TEXT_DECODER, "sliding_windows": [[16, 4], [16, 0]]}
    ids = _special_ids(tokenizer)
    config = MoonshineStreamingConfig(
        encoder_config=encoder,
        vocab_size=len(tokenizer),
        **TEXT_DECODER,
        **ids,
        decoder_start_token_id=ids["bos_token_id"],
    )
    MoonshineStreamingForConditionalGeneration(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_cohere_asr(folder: Path) -> None:
    from transformers import (
        CohereAsrConfig,
        CohereAsrFeatureExtractor,
        CohereAsrForConditionalGeneration,
        CohereAsrProcessor,
    )

    names = (
        *("<|startofcontext|>", "<|startoftranscript|>", "<|emo:undefined|>", "<|pnc|>", "<|nopnc|>", "<|noitn|>"),
        *("<|notimestamp|>", "<|nodiarize|>", *LANGUAGE_TOKENS),
    )
    tokenizer = pieces_tokenizer(others=("<s>", "</s>", "\u2581", *names), eos_token="</s>", bos_token="<s>")
    ids = _special_ids(tokenizer)
    config = CohereAsrConfig(
        encoder_config={**MEL_ENCODER, "model_type": "parakeet_encoder", "num_mel_bins": 128},
        vocab_size=len(tokenizer),
        **TEXT_DECODER,
        **ids,
        decoder_start_token_id=ids["bos_token_id"],
    )
    CohereAsrForConditionalGeneration(config).save_pretrained(folder)
    CohereAsrProcessor(CohereAsrFeatureExtractor(), tokenizer).save_pretrained(folder)
    CohereAsrFeatureExtractor().save_pretrained(folder)


def _save_canary(folder: Path) -> None:
    from transformers import CanaryConfig, CanaryForConditionalGeneration, CanaryProcessor, ParakeetFeatureExtractor

    tokenizer = pieces_tokenizer(others=("<s>", "</s>", *LANGUAGE_TOKENS), eos_token="</s>", bos_token="<s>")
    ids = _special_ids(tokenizer)
    config = CanaryConfig(
        encoder_config={**MEL_ENCODER, "model_type": "parakeet_encoder", "num_mel_bins": 128},
        decoder_config={**TEXT_DECODER, "vocab_size": len(tokenizer), **ids},
        vocab_size=len(tokenizer),
        **ids,
        decoder_start_token_id=ids["bos_token_id"],
    )
    CanaryForConditionalGeneration(config).save_pretrained(folder)
    template = (
        "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'text' %}<s><|"
        "{{ part['source_language'] }}|><|{{ part['target_language'] }}|>{% endif %}{% endfor %}{% endfor %}"
    )
    CanaryProcessor(ParakeetFeatureExtractor(feature_size=128), tokenizer, chat_template=template).save_pretrained(
        folder
    )


def _save_seamless_m4t_v2(folder: Path) -> None:
    from transformers import SeamlessM4TFeatureExtractor, SeamlessM4Tv2Config, SeamlessM4Tv2ForSpeechToText

    tokenizer = pieces_tokenizer(others=("<s>", "</s>", "__eng__", "__deu__"), eos_token="</s>", bos_token="<s>")
    ids = _special_ids(tokenizer)
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = SeamlessM4Tv2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        **sizes,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        speech_encoder_layers=2,
        speech_encoder_attention_heads=2,
        speech_encoder_intermediate_size=48,
        t2u_encoder_layers=1,
        t2u_decoder_layers=1,
        **ids,
        decoder_start_token_id=ids["eos_token_id"],
    )
    model = SeamlessM4Tv2ForSpeechToText(config)
    codes = {code: tokenizer.convert_tokens_to_ids(f"__{code}__") for code in ("eng", "deu")}
    model.generation_config.text_decoder_lang_to_code_id = codes
    model.generation_config._from_model_config = False
    model.save_pretrained(folder)
    SeamlessM4TFeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_qwen3_asr(folder: Path) -> None:
    from transformers import (
        Qwen3ASRConfig,
        Qwen3ASRFeatureExtractor,
        Qwen3ASRForConditionalGeneration,
        Qwen3ASRProcessor,
    )

    names = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
    others = ("<s>", "</s>", "<asr_text>", *names.values())
    tokenizer = pieces_tokenizer(others=others, eos_token="</s>", bos_token="<s>", extra_special_tokens=names)
    ids = _special_ids(tokenizer)
    audio = {"num_mel_bins": 128, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
    config = Qwen3ASRConfig(
        audio_config={**audio, "d_model": 32, "output_dim": 32, "downsample_hidden_size": 8},
        text_config={"model_type": "qwen3", "vocab_size": len(tokenizer), **TEXT_DECODER, **ids},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        timestamp_token_id=len(tokenizer) - 1,
        pad_token_id=ids["pad_token_id"],
        eos_token_id=ids["eos_token_id"],
    )
    Qwen3ASRForConditionalGeneration(config).save_pretrained(folder)
    template = _chat_template("<|audio_start|><|audio_pad|><|audio_end|>")
    extractor = Qwen3ASRFeatureExtractor()
    Qwen3ASRProcessor(extractor, tokenizer, chat_template=template).save_pretrained(folder)


def _chat_template(audio: str) -> str:
    """Return a template that writes the token for audio, and texts and keywords as they are."""
    return (
        "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
        + audio
        + "{% else %}{{ part['text'] }}{{ part['keywords'] | join(' ') }}{% endif %}{% endfor %}{% endfor %}"
    )


def _save_glmasr(folder: Path) -> None:
    from transformers import GlmAsrConfig, GlmAsrForConditionalGeneration, GlmAsrProcessor, WhisperFeatureExtractor

    tokenizer = pieces_tokenizer(others=("<s>", "</s>", "<|pad|>"), eos_token="</s>", bos_token="<s>")
    encoder = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = GlmAsrConfig(
        audio_config=encoder,
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT_DECODER, **_special_ids(tokenizer)},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|pad|>"),
    )
    GlmAsrForConditionalGeneration(config).save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=128)
    GlmAsrProcessor(extractor, tokenizer, chat_template=_chat_template("<|pad|>")).save_pretrained(folder)


def _save_omniasr(folder: Path) -> None:
    from transformers import OmniASRConfig, OmniASRFeatureExtractor, OmniASRForConditionalGeneration, OmniASRProcessor

    tokenizer = pieces_tokenizer(
        others=("<s>", "</s>", "<extra_id_1>", "<|lang:eng_latn|>", "<|lang:auto|>"), eos_token="</s>", bos_token="<s>"
    )
    ids = _special_ids(tokenizer)
    config = OmniASRConfig(
        audio_config=WAVE_ENCODER,
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT_DECODER, **ids},
        audio_token_id=tokenizer.convert_tokens_to_ids("<extra_id_1>"),
        **ids,
    )
    OmniASRForConditionalGeneration(config).save_pretrained(folder)
    template = _chat_template("<extra_id_1>")
    OmniASRProcessor(OmniASRFeatureExtractor(), tokenizer, chat_template=template).save_pretrained(folder)


def _save_granite_speech(folder: Path, name: str) -> None:
    import transformers

    extractor = transformers.GraniteSpeechFeatureExtractor()
    config_class, model_class = (getattr(transformers, name + end) for end in ("Config", "ForConditionalGeneration"))
    tokenizer = pieces_tokenizer(others=("<s>", "</s>", "<|audio|>"), eos_token="</s>", bos_token="<s>")
    encoder = {"num_layers": 2, "hidden_dim": 32, "num_heads": 2, "output_dim": 8, "context_size": 50}
    projector = {"hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    config = config_class(
        encoder_config=encoder,
        projector_config={**projector, "model_type": "blip_2_qformer", "num_hidden_layers": 2},
        text_config={"model_type": "granite", "vocab_size": len(tokenizer), **TEXT_DECODER, **_special_ids(tokenizer)},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=False,
    )
    model_class(config).save_pretrained(folder)
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    transformers.GraniteSpeechProcessor(extractor, tokenizer, chat_template=template).save_pretrained(folder)


def _save_speech_to_text(folder: Path) -> None:
    import sentencepiece
    from transformers import (
        Speech2TextConfig,
        Speech2TextFeatureExtractor,
        Speech2TextForConditionalGeneration,
        Speech2TextTokenizer,
    )

    words = (f"{first} {second}{first}" for first in LETTERS[:26] for second in LETTERS[:26])
    model, prefix = folder / "sentencepiece.bpe.model", str(folder / "spm")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=words, model_prefix=prefix, vocab_size=54, minloglevel=2, bos_id=-1, eos_id=-1, unk_id=0
    )
    (folder / "spm.model").rename(model)
    pieces = sentencepiece.SentencePieceProcessor(str(model))
    names = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(piece) for piece in range(1, len(pieces)))]
    (folder / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(names)}))
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = Speech2TextConfig(
        vocab_size=len(names), d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, conv_channels=32, **sizes
    )
    Speech2TextForConditionalGeneration(config).save_pretrained(folder)
    Speech2TextFeatureExtractor().save_pretrained(folder)
    Speech2TextTokenizer(str(folder / "vocab.json"), str(model)).save_pretrained(folder)


def _save_speech_encoder_decoder(folder: Path) -> None:
    from transformers import BartConfig, BartForCausalLM, SpeechEncoderDecoderModel, Wav2Vec2Config, Wav2Vec2Model

    tokenizer = pieces_tokenizer(others=("<s>", "</s>"), eos_token="</s>", bos_token="<s>")
    ids = _special_ids(tokenizer)
    decoder = BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=48,
        is_decoder=True,
        add_cross_attention=True,
        **ids,
    )
    encoder = Wav2Vec2Model(Wav2Vec2Config(**WAVE_ENCODER, feat_extract_norm="layer"))
    model = SpeechEncoderDecoderModel(encoder=encoder, decoder=BartForCausalLM(decoder))
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = ids["bos_token_id"]
        config.pad_token_id, config.eos_token_id = ids["pad_token_id"], ids["eos_token_id"]
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_speecht5(folder: Path) -> None:
    from transformers import SpeechT5Config, SpeechT5FeatureExtractor, SpeechT5ForSpeechToText

    tokenizer = pieces_tokenizer(others=("<s>", "</s>"), eos_token="</s>", bos_token="<s>")
    ids = _special_ids(tokenizer)
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = SpeechT5Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        conv_dim=WAVE_ENCODER["conv_dim"],
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        **sizes,
        **ids,
        decoder_start_token_id=ids["eos_token_id"],
    )
    SpeechT5ForSpeechToText(config).save_pretrained(folder)
    SpeechT5FeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_kyutai(folder: Path) -> None:
    from transformers import (
        KyutaiSpeechToTextConfig,
        KyutaiSpeechToTextFeatureExtractor,
        KyutaiSpeechToTextForConditionalGeneration,
    )

    tokenizer = pieces_tokenizer()
    text_tokens, codebooks, sounds = len(tokenizer) + 1, 4, 17
    codec = {
        "model_type": "mimi",
        "hidden_size": 32,
        "num_filters": 4,
        "codebook_size": sounds - 1,
        "codebook_dim": 16,
        "vector_quantization_hidden_dimension": 16,
        "num_quantizers": codebooks,
        "upsample_groups": 32,
        "num_hidden_layers": 1,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 20,
    }
    config = KyutaiSpeechToTextConfig(
        codebook_vocab_size=sounds,
        vocab_size=text_tokens,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=16,
        ffn_dim=48,
        num_codebooks=codebooks,
        audio_bos_token_id=sounds - 1,
        audio_pad_token_id=text_tokens + codebooks * sounds,
        codec_config=codec,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=text_tokens - 1,
    )
    model = KyutaiSpeechToTextForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    KyutaiSpeechToTextFeatureExtractor(audio_delay_seconds=0.5).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_fun_asr_nano(folder: Path) -> None:
    from transformers import (
        FunAsrNanoConfig,
        FunAsrNanoFeatureExtractor,
        FunAsrNanoForConditionalGeneration,
        FunAsrNanoProcessor,
    )

    tokenizer = pieces_tokenizer(others=("<s>", "</s>", "<|object_ref_start|>"), eos_token="</s>", bos_token="<s>")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 2}
    config = FunAsrNanoConfig(
        audio_config={**sizes, "num_timestamp_prediction_layers": 1},
        adaptor_config={**sizes, "intermediate_size": 8, "projector_hidden_size": 48},
        text_config={"model_type": "qwen3", "vocab_size": len(tokenizer), **TEXT_DECODER, **_special_ids(tokenizer)},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|object_ref_start|>"),
    )
    FunAsrNanoForConditionalGeneration(config).save_pretrained(folder)
    template = _chat_template("<|object_ref_start|>")
    FunAsrNanoProcessor(FunAsrNanoFeatureExtractor(), tokenizer, chat_template=template).save_pretrained(folder)


WAVE_CTC = (
    *("data2vec-audio", "hubert", "sew", "sew-d", "unispeech", "unispeech-sat", "wav2vec2"),
    *("wav2vec2-conformer", "wavlm"),
)
TRANSDUCERS = ("parakeet_tdt", "parakeet_rnnt", "nemotron_asr_streaming")
SAVERS: dict[str, Callable[[Path], None]] = {
    **{model_type: partial(_save_wave_ctc, model_type=model_type) for model_type in WAVE_CTC},
    "wav2vec2-bert": _save_wav2vec2_bert,
    "parakeet_ctc": _save_parakeet_ctc,
    "lasr_ctc": _save_lasr_ctc,
    "omniasr_ctc": _save_omniasr_ctc,
    "granite_speech5_ctc": _save_granite_speech5_ctc,
    **{model_type: partial(_save_transducer, model_type=model_type) for model_type in TRANSDUCERS},
    "nemotron3_5_asr": _save_nemotron3_5_asr,
}

GENERATING: dict[str, Callable[[Path], None]] = {
    "moonshine_streaming": _save_moonshine_streaming,
    "cohere_asr": _save_cohere_asr,
    "canary": _save_canary,
    "seamless_m4t_v2": _save_seamless_m4t_v2,
    "qwen3_asr": _save_qwen3_asr,
    "glmasr": _save_glmasr,
    "omniasr": _save_omniasr,
    "granite_speech": partial(_save_granite_speech, name="GraniteSpeech"),
    "granite_speech_plus": partial(_save_granite_speech, name="GraniteSpeechPlus"),
    "speech_to_text": _save_speech_to_text,
    "speech-encoder-decoder": _save_speech_encoder_decoder,
    "speecht5": _save_speecht5,
    "kyutai_speech_to_text": _save_kyutai,
    "fun_asr_nano": _save_fun_asr_nano,
}


def save_model(model_type: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of a family with random weights into a folder, and return the folder."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (SAVERS | GENERATING)[model_type](folder)
    return folder
