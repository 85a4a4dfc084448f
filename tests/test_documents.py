"""The documents: every example runs against a server on loopback, every link and every path leads somewhere."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from handler.transcription.pipeline import Pipeline
from tests.conftest import ROOT
from tests.support.browser import CHROMIUM, Browser
from tests.support.serving import Server, serving
from tests.support.speech import FOX, say, wav
from tests.support.web import Web
from tests.test_architecture import DIRECTION, RANK

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in DOCUMENTS}
SPEECH = wav(say(FOX), format="FLAC")
WORDS = "quick brown fox jumps over the lazy dog"


def blocks(language: str) -> list[str]:
    """Return the code of a language in all documents; what stands in several of them, once."""
    found = (block for text in TEXTS.values() for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL))
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, cors_origins=("*",)) as running:
        yield running


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split()[1])
def test_a_python_example_prints_the_text(server: Server, tmp_path: Path, code: str) -> None:
    (tmp_path / "audio.flac").write_bytes(SPEECH)
    command = [sys.executable, "-c", code.replace("http://localhost:8000", server.url)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "NO_PROXY": "*"}
    )
    assert done.returncode == 0, done.stderr
    assert WORDS in done.stdout.lower()


CURLS = list(
    dict.fromkeys(line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ curl"))
)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("line", CURLS)
def test_a_curl_example_is_answered(server: Server, web: Web, tmp_path: Path, line: str) -> None:
    for name in ("audio.flac", "audio.mp3"):
        (tmp_path / name).write_bytes(SPEECH)
    address = web.put("/audio.mp3", SPEECH)
    command = line.replace("localhost:8000", server.url).replace("https://example.com/audio.mp3", address)
    environment = {**os.environ, "no_proxy": "*"}
    done = subprocess.run(
        ["bash", "-c", f"{command} --silent --show-error --fail"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert WORDS in " ".join(done.stdout.split()) or '"ok"' in done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("code", blocks("javascript"))
def test_a_javascript_example_finds_the_text(server: Server, code: str) -> None:
    given = base64.b64encode(SPEECH).decode()
    file = f"const file = new File([Uint8Array.from(atob('{given}'), one => one.charCodeAt(0))], 'audio.flac');"
    with Browser() as browser:
        browser.open(server.url + "/")
        assert WORDS in browser.run(
            f"(async () => {{ {file} {code.replace('http://localhost:8000', server.url)} return text; }})()"
        )


def test_the_dashboard_asks_for_figures_that_there_are(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as raw:
        raw.post("/asr", content=SPEECH)
        there = {
            line.split("{")[0].split(" ")[0]
            for line in raw.get("/metrics").text.splitlines()
            if not line.startswith("#")
        }
    panels = json.loads((ROOT / "docs" / "grafana.json").read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\b(?:asr|process)_\w+", target["expr"])
    }
    assert len(asked) > 10
    assert asked <= there


PROSE = {name: re.sub(r"```.*?```", "", text, flags=re.DOTALL) for name, text in TEXTS.items()}
TREES = ("handler/", "local_server/", "tests/", "scripts/", "docs/", ".runpod/", ".github/")


def anchors(text: str) -> set[str]:
    """Return the names that headings of a document can be linked by."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PROSE)
def test_every_relative_link_leads_to_a_file_and_its_heading(name: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", PROSE[name]) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(PROSE[str(target.relative_to(ROOT))]), link


@pytest.mark.parametrize("name", PROSE)
def test_every_path_that_a_document_names_exists(name: str) -> None:
    paths = [code for code in re.findall(r"`([^`\s]+)`", PROSE[name]) if code.startswith(TREES)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", PROSE)
def test_every_name_that_a_document_places_in_a_module_is_there(name: str) -> None:
    placed = re.findall(r"`([\w.]+)` (?:of|in) `([\w/]+\.py)`", PROSE[name])
    assert [(word, path) for word, path in placed if word not in (ROOT / path).read_text()] == []


def test_every_file_beside_the_documents_is_shown_by_one_of_them() -> None:
    pictures = {path.name for path in (ROOT / "docs").rglob("*.png")}
    assert {name for name in pictures if not any(name in text for text in TEXTS.values())} == set()


def test_every_document_is_linked_from_the_readme_or_from_what_it_links() -> None:
    seen, waiting = set(), ["README.md"]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in TEXTS:
            continue
        seen.add(name)
        links = (link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", PROSE[name]) if "://" not in link)
        waiting += [str(((ROOT / name).parent / link).resolve().relative_to(ROOT)) for link in links]
    assert seen == set(TEXTS)


def test_the_drawing_of_the_packages_is_the_direction_that_is_tested() -> None:
    drawing = re.findall(r"```mermaid\n(.*?)```", TEXTS["docs/internals/architecture.md"], re.DOTALL)[0]
    names = dict(re.findall(r"^\s*(\w+)\[\"([\w.]+)<br/>", drawing, re.MULTILINE))
    assert set(names.values()) == RANK.keys()
    steps = [[names[node] for node in re.findall(r"\w+", side)] for side in _sides(drawing)]
    assert list(zip(steps[::2], steps[1::2], strict=True)) == [
        (before.split(), after.split()) for before, after in pairwise(DIRECTION)
    ]


def _sides(drawing: str) -> list[str]:
    return [side for line in drawing.splitlines() if "-->" in line for side in line.split("-->")]


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150
    assert len(TEXTS["README.md"].split()) < 1200
