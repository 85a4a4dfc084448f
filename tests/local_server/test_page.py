"""Test the web page in a real browser: upload, streamed text, playing by word, downloads, errors, the microphone."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import srt
import webvtt

from handler.schema.speakers import SpeakerModel
from handler.transcription.pipeline import Pipeline
from tests.conftest import settings
from tests.support.asking import STORY
from tests.support.browser import CHROMIUM, Browser
from tests.support.conversations import converse
from tests.support.serving import Server, serving
from tests.support.speech import FOX, SENTENCES, say, silence, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
SPEECH = wav(say(FOX), format="FLAC")


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    recording = tmp_path_factory.mktemp("microphone") / "fox.wav"
    recording.write_bytes(wav(np.concatenate((silence(0.5), say(FOX), silence(3)))))
    with Browser(recording) as running_browser:
        yield running_browser


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Browser]:
    browser.open(server.url + "/")
    yield browser
    assert browser.errors == []


IS_DONE = "document.getElementById('status').hidden && !document.getElementById('result').hidden"


def shown_text(page: Browser) -> str:
    return " ".join(page.run("[...document.querySelectorAll('.said')].map(e => e.textContent)"))


def test_a_dropped_file_is_transcribed_and_the_page_loads_nothing_from_other_hosts(
    page: Browser, server: Server
) -> None:
    page.drop(SPEECH, "fox.flac")
    page.wait_until(IS_DONE)
    assert word_error_rate(FOX, shown_text(page)) == 0
    urls = page.run("performance.getEntriesByType('resource').map(e => e.name)")
    assert all(url.startswith((server.url, "blob:", "data:")) for url in urls)
    assert page.run("document.getElementById('wave').width > 0 && document.getElementById('player').duration > 2")


def test_text_appears_before_the_end_of_the_audio(page: Browser, web: Web) -> None:
    web.put("/story", wav(STORY, format="FLAC"))
    page.run(f"document.getElementById('url').value = '{web.url}/partly?/story'")
    page.click("#address button")
    page.wait_until("document.querySelectorAll('.said').length > 0")
    assert not page.run("document.getElementById('status').hidden")
    assert 0 < page.run("document.getElementById('progress').value") < 1
    first_text = shown_text(page)
    web.released.set()
    page.wait_until(IS_DONE)
    assert shown_text(page).startswith(first_text)
    assert word_error_rate(" ".join(SENTENCES * 2), shown_text(page)) <= 0.05


def test_the_browser_contacts_the_host_of_an_address_only_to_play_it(page: Browser, web: Web) -> None:
    page.run(f"document.getElementById('url').value = '{web.put('/fox', SPEECH)}'")
    page.click("#address button")
    page.wait_until(IS_DONE)
    page.click(".word:nth-child(5)")
    assert page.run("document.getElementById('player').currentTime") > 0
    assert web.counts["/fox"] == 1  # by the server
    page.click("#play")
    page.wait_until("document.getElementById('player').readyState > 0")
    assert web.counts["/fox"] > 1


def test_a_word_that_is_clicked_moves_the_player_and_lights_up(page: Browser) -> None:
    page.drop(SPEECH, "fox.flac")
    page.wait_until(IS_DONE)
    page.wait_until("document.getElementById('player').readyState > 0")
    page.click(".word:nth-child(5)")
    position = page.wait_until("document.getElementById('player').currentTime")
    assert page.text(".word.now") == page.text(".word:nth-child(5)")
    page.run("document.activeElement.blur(); document.body.focus()")
    page.key("ArrowLeft")
    page.wait_until(f"document.getElementById('player').currentTime < {position}")
    page.key(" ")
    page.wait_until("!document.getElementById('player').paused")
    page.key(" ")
    page.wait_until("document.getElementById('player').paused")


def test_the_arrow_keys_go_from_word_to_word_and_line_to_line(page: Browser) -> None:
    page.drop(wav(STORY, format="FLAC"), "story.flac")
    page.wait_until(IS_DONE)
    page.wait_until("document.getElementById('player').readyState > 0")
    page.run("document.getElementById('text').focus()")
    for key, line, word in (
        ("ArrowRight", 1, 1),
        ("ArrowRight", 1, 2),
        ("ArrowDown", 2, 1),
        ("ArrowRight", 2, 2),
        ("ArrowLeft", 2, 1),
        ("ArrowUp", 1, 1),
    ):
        page.key(key)
        expected = f"#text p:nth-child({line}) .word:nth-child({word})"
        page.wait_until(f"document.querySelector('.word.now') === document.querySelector('{expected}')")
    page.key(" ")
    page.wait_until("!document.getElementById('player').paused")


def test_the_page_shows_how_much_has_been_sent(page: Browser) -> None:
    page.run(
        "(() => { window.seen = []; const told = document.getElementById('told');"
        " new MutationObserver(() => window.seen.push(told.textContent)).observe(told, {childList: true}); })()"
    )
    page.drop(SPEECH, "fox.flac")
    page.wait_until(IS_DONE)
    assert "sending, 100 %" in page.run("window.seen")


def test_found_words_are_marked_and_edited_text_is_downloaded(page: Browser) -> None:
    page.drop(SPEECH, "fox.flac")
    page.wait_until(IS_DONE)
    page.run(
        "(() => { const s = document.getElementById('search');"
        " s.value = 'brown fox'; s.dispatchEvent(new Event('input')); })()"
    )
    marked_text = page.run("[...document.querySelectorAll('.found')].map(e => e.textContent).join(' ').toLowerCase()")
    assert marked_text == "brown fox"
    assert page.text("#hits") == "1 found"
    page.click("#edit")
    page.run("document.querySelector('.word').textContent = 'That <'")
    for format in ("txt", "srt", "vtt", "json"):
        page.click(f"[data-format={format}]")
    assert page.read_download("transcript.txt").startswith("That < quick brown fox")
    (cue,) = srt.parse(page.read_download("transcript.srt"))
    assert cue.content.startswith("That < quick")
    assert 0 <= cue.start.total_seconds() < cue.end.total_seconds()
    (caption,) = webvtt.from_buffer(io.StringIO(page.read_download("transcript.vtt")))
    assert caption.raw_text.startswith("That &lt; quick")
    transcript = json.loads(page.read_download("transcript.json"))
    assert transcript["text"].startswith("That < quick")
    assert transcript["chunks"][0]["words"][1]["word"] == "quick"


@pytest.mark.parametrize(
    ("format", "text", "line"),
    [
        ("srt", "<i>I</i> <3 it ---> {\\an8}", "‹i›I‹/i› <3 it -> (\\an8}"),
        ("vtt", "<i>I</i> --> it", "&lt;i&gt;I&lt;/i&gt; -&gt; it"),
        ("txt", "\x1b[31mred\x9b0m \u202eover\u2066", "[31mred0m over"),
    ],
)
def test_a_download_holds_no_markup_and_no_control_characters(page: Browser, format: str, text: str, line: str) -> None:
    segments = json.dumps([{"start": 0, "end": 1, "text": text}])
    content = page.run(f"import('/page/formats.js').then(f => f.FORMATS.{format}[1]({segments}, null))")
    assert content.splitlines()[-1] == line


def test_turns_have_their_speaker_who_can_be_renamed(
    browser: Browser, pipeline: Pipeline, speaker_model: SpeakerModel
) -> None:
    with_speakers = Pipeline(pipeline.engine, settings(), speaker_model=speaker_model)
    with serving(with_speakers) as server:
        browser.open(server.url + "/")
        browser.wait_until("!document.getElementById('voices').hidden")
        browser.click("#diarize")
        browser.drop(wav(converse(("reader", "story"), 4).samples, format="FLAC"), "talk.flac")
        browser.wait_until(IS_DONE)
        turns = "[...document.querySelectorAll('.speaker')].map(e => e.textContent)"
        assert browser.run(turns) == ["A", "B", "A", "B"]
        colors = "new Set([...document.querySelectorAll('#text p')].map(e => e.style.getPropertyValue('--voice')))"
        assert browser.run(f"{colors}.size") == 2
        browser.run(
            "(() => { const e = document.querySelector('[data-speaker=B] .speaker');"
            " e.textContent = 'Sydney'; e.dispatchEvent(new Event('input')); })()"
        )
        assert browser.run(turns) == ["A", "Sydney", "A", "Sydney"]
        for format in ("txt", "vtt", "json"):
            browser.click(f"[data-format={format}]")
        assert "\nSydney: " in browser.read_download("transcript.txt")
        assert "<v Sydney>" in browser.read_download("transcript.vtt")
        speakers = [chunk["speaker"] for chunk in json.loads(browser.read_download("transcript.json"))["chunks"]]
        assert set(speakers) == {"A", "Sydney"}
    assert browser.errors == []
    with_speakers.close()


def test_an_error_is_shown_for_a_file_without_sound(page: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_bytes(b"no sound" * 99)
    page.choose("#file", bad)
    page.wait_until("!document.getElementById('error').hidden")
    assert page.text("#error").startswith("unsupported_media: ")
    page.choose("#file", tmp_path / "bad.mp3")


def test_a_recording_of_the_microphone_is_transcribed(page: Browser) -> None:
    page.click("#record")
    page.wait_until("document.getElementById('record').getAttribute('aria-pressed') === 'true'")
    page.wait_until(
        "document.getElementById('open')?.textContent.toLowerCase().includes('fox')"
    )  # while the recording goes on
    page.wait_until("document.querySelectorAll('.said').length > 0")
    page.click("#record")
    page.wait_until("document.getElementById('record').getAttribute('aria-pressed') === 'false'")
    page.wait_until("document.getElementById('player').src.startsWith('blob:')")
    assert word_error_rate(FOX, shown_text(page)) <= 0.3
    assert page.run("document.getElementById('open') === null")
    page.click(".word")
    assert page.run("document.getElementById('player').currentTime") >= 0.3


def test_what_has_no_captions_is_sent_when_the_recording_ends(page: Browser) -> None:
    page.run("document.getElementById('task').value = 'translate'")  # which is hidden for this model, and has no effect
    page.click("#record")
    page.wait_until("document.getElementById('record').getAttribute('aria-pressed') === 'true'")
    page.run("new Promise(done => setTimeout(done, 4500))")
    page.click("#record")
    page.wait_until(IS_DONE)
    assert word_error_rate(FOX, shown_text(page)) <= 0.3


def test_a_cancelled_request_ends_in_the_server(page: Browser, web: Web, pipeline: Pipeline) -> None:
    web.put("/story", wav(STORY, format="FLAC"))
    page.run(f"document.getElementById('url').value = '{web.url}/partly?/story'")
    page.click("#address button")
    page.wait_until("document.querySelectorAll('.said').length > 0")
    page.click("#cancel")
    page.wait_until("document.getElementById('status').hidden")
    assert page.run("document.getElementById('error').hidden")
    while pipeline.runner.load() != (0, 0):
        pass


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_screen_of_a_phone(page: Browser, dark: bool) -> None:
    page.drop(SPEECH, "fox.flac")
    page.wait_until(IS_DONE)
    page.screenshot(width=360, height=740, dark=dark, phone=True)
    assert page.run("document.documentElement.scrollWidth") <= 360
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark
    assert background != page.run("getComputedStyle(document.body).color")


def test_a_server_with_keys_asks_for_one(browser: Browser, pipeline: Pipeline) -> None:
    with serving(pipeline, api_keys=("hunter2",)) as server:
        browser.requests.clear()
        browser.open(server.url + "/")
        assert not browser.run("document.getElementById('keyed').hidden")
        assert not any(address.endswith("/v1/models") for address in browser.requests)
        browser.drop(SPEECH, "fox.flac")
        browser.wait_until("!document.getElementById('error').hidden")
        assert browser.text("#error").startswith("unauthorized: ")
        browser.run("document.getElementById('key').value = 'hunter2'")
        browser.drop(SPEECH, "fox.flac")
        browser.wait_until(IS_DONE)
        assert word_error_rate(FOX, shown_text(browser)) == 0


def test_text_without_spaces_gets_none(page: Browser) -> None:
    page.drop(SPEECH, "fox.flac")
    page.wait_until(IS_DONE)
    content = page.run(
        "import('/page/formats.js').then(f => f.FORMATS.json[1]([{start: 0, end: 1, text: '你好', edited: false}],"
        " {text: '你好', chunks: [{timestamp: [0, 1], text: '你好'}]}))"
    )
    assert json.loads(content)["text"] == "你好"
    line = "document.querySelector('.said')"
    assert page.run(f"{line}.textContent") == page.run(f"{line}.dataset.text")
