"""Names of the loaded model: its id, its last part, the size that people say, and aliases."""

import pytest

from handler.errors import InvalidRequest, ModelNotFound
from handler.schema.model_names import check_model, model_names


@pytest.mark.parametrize(
    ("model_id", "names"),
    [
        ("openai/whisper-large-v3", {"whisper-large-v3", "large-v3", "large"}),
        ("openai/whisper-large-v3-turbo", {"whisper-large-v3-turbo", "large-v3-turbo", "turbo"}),
        ("Systran/faster-whisper-base", {"faster-whisper-base", "base"}),
        ("Systran/faster-distil-whisper-large-v2", {"distil-large-v2"}),
        ("acme/dictation", {"dictation"}),
    ],
)
def test_a_model_answers_to_its_id_and_what_people_call_it(model_id: str, names: set[str]) -> None:
    assert names | {model_id} <= model_names(model_id)
    for name in names:
        check_model(name, model_id, ())


def test_aliases_are_names_too() -> None:
    check_model("whisper-1", "openai/whisper-base", ("whisper-1",))


def test_another_model_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(
        ModelNotFound, match="model 'tiny' is not loaded; this worker has openai/whisper-base"
    ) as refusal:
        check_model("tiny", "openai/whisper-base", ("whisper-1",))
    assert refusal.value.field == "model"
    assert "whisper-1" in refusal.value.message
    with pytest.raises(InvalidRequest):
        check_model("tiny", "openai/whisper-base", (), InvalidRequest)
