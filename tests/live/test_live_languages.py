"""The language of live speech, with a multilingual model: found for each stretch, among those that are allowed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from handler.live.events import Completed
from handler.live.live_session import LiveConfig
from handler.schema.options import Options
from handler.schema.window import SAMPLE_RATE
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from tests.conftest import settings
from tests.support.live import Listener, joined, quiet
from tests.support.speech import FOX, say
from tests.support.word_errors import word_error_rate


@pytest.fixture(scope="module")
def multilingual(base_folder: Path) -> Iterator[Pipeline]:
    pipeline = build(settings(model_id=str(base_folder)))
    yield pipeline
    pipeline.close()


def languages(listener: Listener) -> list[str | None]:
    return [event.language for event in listener.events if isinstance(event, Completed)]


async def test_a_sound_that_is_no_language_decides_nothing_for_what_follows(multilingual: Pipeline) -> None:
    listener = Listener(multilingual)
    hum = say("Hm.")[SAMPLE_RATE // 4 :]
    await listener.hear(joined(hum, quiet(1), say(FOX), quiet(1)))
    assert languages(listener)[-1] == "en"
    assert word_error_rate(FOX, listener.texts()[-1]) == 0


async def test_only_allowed_languages_are_found(multilingual: Pipeline) -> None:
    listener = Listener(multilingual, LiveConfig(Options(languages=("de", "fr"))))
    await listener.hear(joined(say(FOX), quiet(1)))
    assert languages(listener)[0] in ("de", "fr")


async def test_a_language_that_is_stated_is_not_looked_for(multilingual: Pipeline) -> None:
    listener = Listener(multilingual, LiveConfig(Options(language="en")))
    await listener.hear(joined(say(FOX), quiet(1)))
    assert languages(listener) == ["en"]
