"""MODEL_LANGUAGE: the language of a checkpoint that states none, and weights that differ by language."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from handler.errors import ModelUnavailable
from handler.hub.adapters import code_of
from handler.schema.window import Window
from handler.settings import Settings, SettingsError
from handler.whisper.loading import load_engine as load_whisper
from tests.conftest import settings
from tests.support.hub_engine import decode, engine_for, text_of
from tests.support.hub_models import LETTERS, WAVE_ENCODER, save_model

NOISE = (np.random.default_rng(0).standard_normal(16_000) / 10).astype(np.float32)
LANGUAGES = {"eng": LETTERS, "fra": LETTERS[::-1]}  # with the letters of their vocabularies, in another order each


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint that has weights and letters for each of two languages, as facebook/mms-1b-all has."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("multilingual")
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        **WAVE_ENCODER,
        vocab_size=5 + len(LETTERS),
        pad_token_id=0,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        adapter_attn_dim=8,
    )
    model = Wav2Vec2ForCTC(config)
    model.save_pretrained(folder)
    for language in LANGUAGES:
        torch.nn.init.normal_(model.lm_head.weight)
        weights = {name: value.clone() for name, value in model._get_adapters().items()}
        save_file(weights, folder / f"adapter.{language}.safetensors")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    names = ("<pad>", "<s>", "</s>", "<unk>", "|")
    vocabulary = {
        language: {name: index for index, name in enumerate((*names, *letters))}
        for language, letters in LANGUAGES.items()
    }
    file = folder / "vocab.json"
    file.write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(file), target_lang="eng").save_pretrained(folder)
    return folder


def test_each_language_has_weights_and_letters_of_its_own(multilingual: Path) -> None:
    texts = {}
    for language, code in (("eng", "en"), ("fra", "fr")):
        engine = engine_for(multilingual, model_language=language)
        assert engine.capabilities.languages == (code,)
        (result,) = decode(engine, [Window(0, NOISE)])
        assert result.language == code
        texts[language] = text_of(result)
        assert texts[language] == _greedy(multilingual, language)
    assert texts["eng"] != texts["fra"]


def _greedy(folder: Path, language: str) -> str:
    """Return what transformers writes for NOISE, by its own classes."""
    from transformers import AutoFeatureExtractor, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC

    model = Wav2Vec2ForCTC.from_pretrained(folder, target_lang=language, ignore_mismatched_sizes=True)
    inputs = AutoFeatureExtractor.from_pretrained(folder)(NOISE, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        ids = model(**inputs).logits.argmax(-1)[0].tolist()
    text = str(Wav2Vec2CTCTokenizer.from_pretrained(folder, target_lang=language).decode(ids))
    return re.sub("</?s>|<unk>", "", text).strip()


def test_a_language_without_weights_is_told_with_those_that_have_some(multilingual: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"MODEL_LANGUAGE=deu: .*expected one of eng, fra"):
        engine_for(multilingual, model_language="deu")


@pytest.mark.parametrize(
    ("name", "code"), [("ara", "ar"), ("azj-script_latin", "az"), ("kmr-script_latin", None), ("zlm", "ms")]
)
def test_names_of_three_letters_are_told_by_their_codes(name: str, code: str | None) -> None:
    assert code_of(name) == code


def test_a_checkpoint_that_states_no_language_has_the_one_that_is_set(tmp_path: Path) -> None:
    folder = save_model("wav2vec2", tmp_path / "model")
    assert engine_for(folder).capabilities.languages == ()
    engine = engine_for(folder, model_language="Portuguese")
    assert engine.capabilities.languages == ("pt",)
    (result,) = decode(engine, [Window(0, NOISE)])
    assert result.language == "pt"


def test_a_model_that_knows_its_languages_refuses_it(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"MODEL_LANGUAGE='fr': expected no value"):
        engine_for(save_model("cohere_asr", tmp_path / "model"), model_language="fr")
    with pytest.raises(SettingsError, match=r"MODEL_LANGUAGE='fr': expected no value"):
        load_whisper(tiny_folder, settings(model_language="fr"))


def test_what_is_no_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MODEL_LANGUAGE"):
        Settings.from_env({"MODEL_LANGUAGE": "../fr"})
    with pytest.raises(SettingsError, match="a language by its code"):
        engine_for(save_model("wav2vec2", tmp_path / "model"), model_language="Klingon")
