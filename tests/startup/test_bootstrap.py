"""A cold process until it is ready: converted weights in the cache, the self test, the imports, the process's state."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from handler.engine.kept_folders import UNUSED_S
from handler.errors import ModelUnavailable
from handler.schema.options import Options
from handler.settings import Settings
from handler.startup.bootstrap import build
from handler.whisper.checkpoint.conversion_cache import ConversionCache
from handler.whisper.checkpoint.reader import load, open_checkpoint
from tests.conftest import ROOT, TINY, settings
from tests.support.asking import upload
from tests.support.layouts import write_transformers
from tests.support.speech import FOX, say, wav
from tests.support.word_errors import word_error_rate

CPU = torch.device("cpu")


def verified_cache(folder: Path, *model_dirs: Path) -> ConversionCache:
    """Return the cache of a checkpoint's conversions in some folders, with its files verified."""
    cache = ConversionCache(model_dirs, folder / "model.bin")
    cache.verify()
    return cache


def load_through_cache(folder: Path, cache_dir: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a folder, read from the cache or else converted and written to it."""
    cache = verified_cache(folder, cache_dir)
    weights = load(open_checkpoint(folder), CPU, torch.bfloat16, cache).state_dict()
    cache.write()
    return {name: tensor.clone() for name, tensor in weights.items()}


def assert_same(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


def conversion_in(cache_dir: Path) -> Path:
    (file,) = cache_dir.glob("converted/*/bfloat16/model.safetensors")
    return file


def test_a_conversion_is_stored_and_read_again_without_the_checkpoint_s_tensors(
    tiny_folder: Path, tmp_path: Path
) -> None:
    first = load_through_cache(tiny_folder, tmp_path)
    modified_at = conversion_in(tmp_path).stat().st_mtime_ns
    cache = verified_cache(tiny_folder, tmp_path)
    assert cache.file("bfloat16") == conversion_in(tmp_path)
    assert cache.file("float16") is None
    assert_same(load_through_cache(tiny_folder, tmp_path), first)
    assert conversion_in(tmp_path).stat().st_mtime_ns == modified_at


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "no checksums"])
def test_a_damaged_conversion_is_detected_logged_and_made_again(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    first = load_through_cache(tiny_folder, tmp_path)
    file = conversion_in(tmp_path)
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flipped bit":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        (file.parent / "sums.json").unlink()
    assert_same(load_through_cache(tiny_folder, tmp_path), first)
    assert caplog.messages == ["kept_checkpoint_damaged"]
    assert len(conversion_in(tmp_path).read_bytes()) == len(data)


def test_a_conversion_that_disappears_after_it_was_verified_is_made_again(tiny_folder: Path, tmp_path: Path) -> None:
    first = load_through_cache(tiny_folder, tmp_path)
    cache = verified_cache(tiny_folder, tmp_path)
    conversion_in(tmp_path).unlink()
    assert_same(load(open_checkpoint(tiny_folder), CPU, torch.bfloat16, cache).state_dict(), first)


def test_a_conversion_in_the_image_is_read_and_a_missing_format_goes_to_the_cache(
    tiny_folder: Path, tmp_path: Path
) -> None:
    image_dir, cache_dir = tmp_path / "image", tmp_path / "cache"
    load_through_cache(tiny_folder, image_dir)
    cache = verified_cache(tiny_folder, image_dir, cache_dir)
    assert cache.file("bfloat16") == conversion_in(image_dir)
    assert cache.path("float32").is_relative_to(cache_dir)


def test_packed_weights_do_not_need_their_file_any_more(tiny_folder: Path, tmp_path: Path) -> None:
    load_through_cache(tiny_folder, tmp_path)
    cache = verified_cache(tiny_folder, tmp_path)
    packed = load(open_checkpoint(tiny_folder), CPU, torch.bfloat16, cache).pack()
    plain = load(open_checkpoint(write_transformers(tiny_folder, tmp_path / "plain")), CPU, torch.float32)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert packed.decoder.tokens.weight.shape == plain.decoder.tokens.weight.shape


def test_a_conversion_that_was_not_read_for_long_is_removed(tiny_folder: Path, tmp_path: Path) -> None:
    past = time.time() - UNUSED_S - 60
    unused, used = (tmp_path / "converted" / name for name in ("unused", "used"))
    for folder in (unused, used):
        (folder / "bfloat16").mkdir(parents=True)
    os.utime(unused, (past, past))
    load_through_cache(tiny_folder, tmp_path)
    assert not unused.exists()
    assert used.exists()
    conversions = conversion_in(tmp_path).parent.parent
    os.utime(conversions, (past, past))
    verified_cache(tiny_folder, tmp_path)
    assert conversions.stat().st_mtime > past + 60


def test_two_processes_that_convert_at_once_store_one_conversion_and_nothing_else(
    tiny_folder: Path, tmp_path: Path
) -> None:
    caches = [verified_cache(tiny_folder, tmp_path) for _ in range(2)]
    for cache in caches:
        load(open_checkpoint(tiny_folder), CPU, torch.bfloat16, cache)
    threads = [threading.Thread(target=cache.write) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in conversion_in(tmp_path).parent.parent.iterdir()] == ["bfloat16"]


WRITE_TO_FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from handler import logs
from handler.whisper.checkpoint.conversion_cache import ConversionCache
from handler.whisper.checkpoint.reader import load, open_checkpoint
logs.configure("WARNING")
folder, cache_dir = map(Path, sys.argv[1:])
cache = ConversionCache([cache_dir], folder / "model.bin")
cache.verify()
load(open_checkpoint(folder), torch.device("cpu"), torch.bfloat16, cache)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
cache.write()
"""


def test_a_full_disk_is_logged_and_has_no_partial_file(tiny_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_TO_FULL_DISK, str(tiny_folder), str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (line,) = map(json.loads, process.stderr.splitlines())
    assert (line["event"], line["level"]) == ("conversion_not_kept", "warning")
    assert list(tmp_path.glob("converted/*/*")) == []


def test_a_cache_that_cannot_be_written_changes_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "converted").write_text("a file where a folder should be")
    expected = load(open_checkpoint(tiny_folder), CPU, torch.bfloat16).state_dict()
    assert_same(load_through_cache(tiny_folder, tmp_path), expected)


async def test_a_process_that_reads_a_conversion_transcribes_the_same_text(tiny_folder: Path, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        pipeline = build(settings(cache_dir=tmp_path))
        texts.append((await pipeline.transcribe(upload(wav(say(FOX))), Options())).text)
        pipeline.close()
    assert ConversionCache([tmp_path], tiny_folder / "model.bin").path("float32").is_file()
    assert texts[0] == texts[1]
    assert word_error_rate(FOX, texts[0]) == 0


def write_deaf_model(tiny_folder: Path, target: Path) -> Path:
    """Write a checkpoint whose encoder ignores its input, and return its folder."""
    from safetensors.torch import load_file, save_file

    folder = write_transformers(tiny_folder, target)
    weights = load_file(folder / "model.safetensors")
    weights["model.encoder.layer_norm.weight"].zero_()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_understands_nothing_starts_only_without_the_startup_check(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = write_deaf_model(tiny_folder, tmp_path / "deaf")
    with pytest.raises(ModelUnavailable, match="where 'good morning' is said"):
        build(settings(model_id=str(folder)))
    build(settings(model_id=str(folder), startup_check=False)).close()


async def test_the_first_transcript_alone_reports_the_stages_of_the_start() -> None:
    pipeline = build(settings())
    first, second = [await pipeline.transcribe(upload(wav(say(FOX))), Options()) for _ in range(2)]
    pipeline.close()
    stages = first.cold_start
    assert stages is not None
    assert {"interpreter", "imports", "import_torch", "find_model", "weights_read", "warm_up", "ready"} <= stages.keys()
    assert 0 < stages["ready"] < stages["total"]
    assert second.cold_start is None


HEAVY = (
    "transformers",
    "optimum",
    "boto3",
    "fastapi",
    "uvicorn",
    "huggingface_hub",
    "cpuinfo",
    "sympy",
    "av",
    "scipy",
    "matplotlib",
    "numba",
)
START = "import os; from handler.settings import Settings; settings = Settings.from_env(os.environ); "
READY = {  # the start of each entry point
    "handler.worker": "import handler.worker",
    "local_server": f"{START}from local_server.__main__ import _start_pipeline, create_app; "
    "_start_pipeline(settings, create_app(settings, None))",
    "handler.cli": f"{START}from handler.timeline import Timeline; from handler.cli.transcribe import start_pipeline; "
    "start_pipeline(settings, Timeline.of_process())",
}


def output_when_ready(entry_point: str, code: str) -> str:
    """Start an entry point in a process of its own; return the output of `code` when the process is ready."""
    environment = {**os.environ, "MODEL_ID": TINY, "LOG_LEVEL": "ERROR", "DEVICE": "cpu"}
    command = [sys.executable, "-c", f"{READY[entry_point]}; {code}"]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return process.stdout.strip()


@pytest.mark.parametrize(
    ("entry_point", "expected"), [("handler.worker", []), ("local_server", ["fastapi", "uvicorn"])]
)
def test_a_ready_process_has_imported_no_unnecessary_library(entry_point: str, expected: list[str]) -> None:
    code = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"
    assert output_when_ready(entry_point, code) == repr(expected)


def process_state() -> tuple[int, bool, float]:
    return gc.get_freeze_count(), gc.isenabled(), sys.getswitchinterval()


def test_build_changes_no_setting_of_the_process() -> None:
    states = [process_state()]
    build(settings(), during_load=lambda: states.append(process_state())).close()
    states.append(process_state())
    assert len(states) == 3
    assert len(set(states)) == 1


@pytest.mark.parametrize("entry_point", READY)
def test_an_entry_point_freezes_what_it_has_loaded_and_resets_the_interpreter(entry_point: str) -> None:
    code = "import gc, sys; print(gc.get_freeze_count(), gc.isenabled(), sys.getswitchinterval())"
    frozen, is_collecting, switch_interval = output_when_ready(entry_point, code).split()
    assert int(frozen) > 100_000
    assert (is_collecting, float(switch_interval)) == ("True", sys.getswitchinterval())


def test_weights_that_need_no_conversion_start_with_a_cache_folder_out_of_reach(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = write_transformers(tiny_folder, tmp_path / "model")
    unreachable = tmp_path / ("x" * 300)  # a name that no file system takes
    build(settings(model_id=str(folder), cache_dir=unreachable)).close()


def test_a_bad_device_ends_the_start_before_anything_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DEVICE"):
        build(Settings(model_id="no/such-model", device="cuda:99", cache_dir=tmp_path))
