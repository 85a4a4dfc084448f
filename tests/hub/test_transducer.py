"""The search of a transducer finds what `generate` of transformers finds, token for token and frame for frame."""

from pathlib import Path

import pytest
import torch

from handler.hub.features import Features
from handler.hub.token_text import TimedToken
from handler.hub.transducer import LOOKAHEAD, TransducerSearch
from tests.support.hub_models import TRANSDUCERS, save_model
from tests.support.speech import SENTENCES, say

CLASSES = {
    "parakeet_tdt": "ParakeetForTDT",
    "parakeet_rnnt": "ParakeetForRNNT",
    "nemotron_asr_streaming": "NemotronAsrStreamingForRNNT",
}


@pytest.mark.parametrize("blank_bias", [0.0, 0.5])
@pytest.mark.parametrize("model_type", TRANSDUCERS)
def test_tokens_and_frames_equal_those_of_generate(tmp_path: Path, model_type: str, blank_bias: float) -> None:
    import transformers

    folder = save_model(model_type, tmp_path)
    model = getattr(transformers, CLASSES[model_type]).from_pretrained(folder).eval()
    blank = model.config.blank_token_id
    model.joint.head.bias.data[blank] += blank_bias
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    features = Features(extractor, torch.device("cpu"), torch.float32)
    inputs = features.of_samples([say(SENTENCES[0]), say(SENTENCES[1])[:30_000]])
    search = TransducerSearch(
        model.decoder, model.joint, blank, getattr(model.config, "durations", ()), model.config.max_symbols_per_step
    )
    with torch.inference_mode():
        encoded = model.get_audio_features(**inputs.tensors, output_attention_mask=True)
        lengths = encoded.attention_mask.sum(-1)
        found = search.run(encoded.pooler_output, lengths)
        output = model.generate(**inputs.tensors, decoder_start_token_id=blank, max_new_tokens=12 * int(lengths.max()))
    rows = zip(output.sequences.tolist(), output.durations, lengths.tolist(), strict=True)
    for tokens, (ids, durations, length) in zip(found, rows, strict=True):
        frames = (durations.cumsum(-1) - durations).tolist()
        # A row that is done goes on until the longest is.
        expected = [pair for pair in zip(ids, frames, strict=True) if pair[0] != blank and pair[1] < length]
        assert [(token.id, token.start) for token in tokens] == expected
    assert any(found)


class Script:
    """A joint network that says at each frame what its table says, whatever the text is."""

    def __init__(self, table: list[tuple[int, int]], num_tokens: int, num_durations: int) -> None:
        self.logits = torch.stack(
            [
                torch.cat(
                    (
                        torch.nn.functional.one_hot(torch.tensor(token), num_tokens),
                        torch.nn.functional.one_hot(torch.tensor(duration), max(1, num_durations))[:num_durations],
                    )
                )
                for token, duration in table
            ]
        ).float()

    def __call__(self, encoder_hidden_states: torch.Tensor, decoder_hidden_states: torch.Tensor) -> torch.Tensor:
        return self.logits[encoder_hidden_states[..., 0].long().clamp(max=len(self.logits) - 1)]


class SilentDecoder:
    """A prediction network that knows nothing."""

    def embedding(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens.shape, 1)

    def lstm(self, embedded: torch.Tensor, state: object) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        return embedded, (torch.zeros(1, len(embedded), 1), torch.zeros(1, len(embedded), 1))

    def decoder_projector(self, output: torch.Tensor) -> torch.Tensor:
        return output


def run(table: list[tuple[int, int]], durations: tuple[int, ...], length: int | None = None) -> list[TimedToken]:
    """Return what is found in frames that hold their own numbers. Token 0 is the blank."""
    search = TransducerSearch(
        SilentDecoder(), Script(table, 5, len(durations)), blank=0, durations=durations, max_symbols=3
    )
    encoded = torch.arange(len(table), dtype=torch.float32)[None, :, None]
    return search.run(encoded, torch.tensor([len(table) if length is None else length]))[0]


def places(tokens: list[TimedToken]) -> list[tuple[int, int, int]]:
    return [(token.id, token.start, token.end) for token in tokens]


def test_a_duration_says_how_far_to_go_on() -> None:
    table = [(1, 2), (4, 1), (2, 1), (0, 3), (4, 1), (4, 1), (3, 4), (4, 1)]
    assert places(run(table, (0, 1, 2, 3, 4))) == [(1, 0, 2), (2, 2, 3), (3, 6, 10)]


def test_a_blank_that_says_to_stay_goes_on_by_a_frame() -> None:
    assert places(run([(0, 0), (0, 0), (2, 1)], (0, 1))) == [(2, 2, 3)]


def test_a_frame_is_left_after_a_number_of_tokens() -> None:
    assert [token.start for token in run([(1, 0), (2, 0)], (0, 1))] == [0, 0, 0, 1, 1, 1]
    assert [token.start for token in run([(1, 0), (0, 0), (2, 0)], ())] == [0, 0, 0, 2, 2, 2]


def test_frames_behind_the_end_of_a_row_count_for_nothing() -> None:
    assert places(run([(0, 1), (0, 1), (1, 1)], (0, 1), length=2)) == []


@pytest.mark.parametrize("gap", [LOOKAHEAD - 1, LOOKAHEAD, LOOKAHEAD + 1, 3 * LOOKAHEAD])
def test_a_token_is_found_after_many_blanks(gap: int) -> None:
    assert places(run([(0, 0)] * gap + [(1, 1)], (0, 1))) == [(1, gap, gap + 1)]
