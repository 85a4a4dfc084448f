"""The languages of a checkpoint, from the metadata of its model card."""

from pathlib import Path

import pytest

from handler.hub.model_card import stated_languages


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlanguage: de\nlicense: mit\n---\n# A model", ("de",)),
        ("---\nlicense: mit\nlanguage:\n- en\n- fr\ntags:\n- it\n---\n", ("en", "fr")),
        ("---\r\nlanguage:\r\n  - pt-BR\r\n---\r\n", ("pt",)),
        ('---\nlanguage: [en, "de"]\n---\n', ("en", "de")),
        ("---\nlanguage: multilingual\n---\n", ()),
        ("---\nlicense: mit\n---\nlanguage: de", ()),
        ("language: de", ()),
        ("", ()),
        ("\udcff", ()),
    ],
)
def test_languages_are_read_from_the_head_of_the_card(tmp_path: Path, card: str, expected: tuple[str, ...]) -> None:
    (tmp_path / "README.md").write_bytes(card.encode("utf-8", "surrogateescape"))
    assert stated_languages(tmp_path) == expected


def test_a_folder_without_a_card_states_none(tmp_path: Path) -> None:
    assert stated_languages(tmp_path) == ()
