"""Names and values of forms and queries, as clients write arrays."""

import pytest

from handler.errors import InvalidRequest
from handler.schema.options import Options
from local_server.uploads.fields import join_arrays, split_array_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", ("a", None)),
        ("a[]", ("a", 0)),
        ("a[0]", ("a", 0)),
        ("a[12]", ("a", 12)),
        ("a[b]", ("a[b]", None)),
        ("a[0][1]", ("a[0][1]", None)),
        ("[0]", ("[0]", None)),
        ("a[-1]", ("a[-1]", None)),
        ("a[99999999]", ("a[99999999]", None)),
        ("a[\u0663]", ("a[\u0663]", None)),
        ("", ("", None)),
    ],
)
def test_only_brackets_around_an_index_make_an_item(name: str, expected: tuple[str, int | None]) -> None:
    assert split_array_name(name) == expected


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("suppress_tokens", "1"), ("suppress_tokens", "2")], {"suppress_tokens": "1,2"}),
        ([("suppress_tokens[]", "1"), ("suppress_tokens[]", "2")], {"suppress_tokens": "1,2"}),
        ([("hotwords[1]", "b"), ("language", "en"), ("hotwords[0]", "a")], {"hotwords": "a,b", "language": "en"}),
        ([("hotwords[10]", "b"), ("hotwords[9]", "a")], {"hotwords": "a,b"}),
        ([("language[]", "en")], {"language": "en"}),
        ([("language", "en"), ("language", "en")], {"language": "en"}),
        ([("prompt", "a, b")], {"prompt": "a, b"}),
        ([], {}),
    ],
)
def test_the_items_of_an_array_are_joined_in_their_order(
    pairs: list[tuple[str, str]], expected: dict[str, str]
) -> None:
    assert join_arrays(pairs) == expected
    Options.parse(dict(expected))


def test_an_option_of_one_value_that_comes_with_two_is_refused_by_its_name() -> None:
    for name in ("language", "language[]"):
        with pytest.raises(InvalidRequest, match="language must be given once") as refusal:
            join_arrays([(name, "en"), ("vad", "true"), (name, "de")])
        assert refusal.value.field == "language"
