"""Damaged files of every format: none of them may take more than a moment, nor memory, nor the process down."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fuzzing import WatchedPool, corpus, damaged_files, decode_damaged

FILES_PER_SEED = 250


@pytest.fixture(scope="module")
def pool() -> Iterator[WatchedPool]:
    pool = WatchedPool()
    yield pool
    pool.close()


def test_every_file_of_the_corpus_is_decoded_as_it_is(pool: WatchedPool) -> None:
    outcomes = {name: decode_damaged(pool, data) for name, data in corpus().items()}
    assert {name for name, outcome in outcomes.items() if outcome.kind != "audio" or outcome.fault} == set()


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_decoded_or_refused(pool: WatchedPool, seed: int, tmp_path: Path) -> None:
    faults = []
    for number, (name, data, first) in enumerate(damaged_files(seed, FILES_PER_SEED)):
        outcome = decode_damaged(pool, data, first)
        if outcome.fault:
            file = tmp_path / str(number)
            file.write_bytes(data)
            faults.append(f"{name}, first {first}: {outcome.fault}: {file}")
    assert faults == []
