"""Phrases that are replaced, in text and words."""

import pytest

from handler.editing.replacements import Replacements
from handler.schema.transcript import Segment
from tests.support.segments import make_segment


def replaced(text: str, **phrases: str) -> str:
    (segment,) = Replacements({name.replace("_", " "): other for name, other in phrases.items()}).apply(
        [make_segment(text)]
    )
    assert "".join(word.text for word in segment.words) == segment.text
    return segment.text.strip()


@pytest.mark.parametrize(
    ("text", "phrases", "expected"),
    [
        ("He met Guten Berg, twice.", {"guten_berg": "Gutenberg"}, "He met Gutenberg, twice."),
        ("a cat, a catalogue", {"cat": "dog"}, "a dog, a catalogue"),
        ("CAT and Cat", {"cat": "dog"}, "dog and dog"),
        ("New York Times", {"new_york": "NY", "new_york_times": "NYT"}, "NYT"),
        ("one two three four", {"two_three": "2 3"}, "one 2 3 four"),
        ("well-known fact", {"known": "read", "well": "badly"}, "badly-read fact"),
        ("die Straße, die STRASSE", {"straße": "Gasse"}, "die Gasse, die STRASSE"),
        ("a kiss", {"\u017f": "x"}, "a kiss"),
        ("an s", {"\u017f": "x"}, "an x"),
        ("an i", {"\u0130": "x"}, "an i"),
        ("nothing to do", {"absent": "x"}, "nothing to do"),
        ("drop the um please", {"um": ""}, "drop the  please"),
    ],
)
def test_whole_words_are_replaced(text: str, phrases: dict[str, str], expected: str) -> None:
    assert replaced(text, **phrases) == expected


def test_a_phrase_becomes_one_word_as_long_as_all_of_its_words() -> None:
    segment = make_segment("He met Guten Berg twice.", word_s=0.5)
    (changed,) = Replacements({"guten berg": "Gutenberg"}).apply([segment])
    assert [word.text for word in changed.words] == [" He", " met", " Gutenberg", " twice."]
    assert (changed.words[2].start, changed.words[2].end) == (1.0, 2.0)
    assert (changed.start, changed.end) == (segment.start, segment.end)


def test_segments_without_words_and_without_phrases() -> None:
    plain = Segment(0, 1, " a cat")
    assert Replacements({"cat": "dog"}).apply([plain])[0].text == " a dog"
    assert Replacements({}).apply([plain]) == [plain]
