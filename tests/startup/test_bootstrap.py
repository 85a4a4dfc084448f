"""A cold process until it is ready: what is kept of a conversion, what the model has to understand, what is not imported."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from handler import logs
from handler.errors import ModelUnavailable
from handler.schema.options import Options
from handler.settings import Settings
from handler.startup.bootstrap import build
from handler.whisper.checkpoint.conversion_cache import UNUSED_S, ConversionCache
from handler.whisper.checkpoint.reader import load, open_checkpoint
from tests.conftest import ROOT, TINY, settings
from tests.support.asking import upload
from tests.support.layouts import write_transformers
from tests.support.speech import FOX, say, wav
from tests.support.word_errors import word_error_rate

CPU = torch.device("cpu")


def converted(folder: Path, cache: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder by way of what is kept, and kept if they were not."""
    kept = ConversionCache([cache], folder / "model.bin")
    kept.check()
    weights = load(open_checkpoint(folder), CPU, torch.bfloat16, kept).state_dict()
    kept.write()
    return {name: tensor.clone() for name, tensor in weights.items()}


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in got.items())


def kept_file(cache: Path) -> Path:
    (found,) = cache.glob("converted/*/bfloat16/model.safetensors")
    return found


def test_a_conversion_is_kept_and_read_again_without_the_checkpoint_s_tensors(tiny_folder: Path, tmp_path: Path) -> None:
    first = converted(tiny_folder, tmp_path)
    before = kept_file(tmp_path).stat().st_mtime_ns
    kept = ConversionCache([tmp_path], tiny_folder / "model.bin")
    kept.check()
    assert kept.file("bfloat16") == kept_file(tmp_path)
    assert kept.file("float16") is None
    assert_same(converted(tiny_folder, tmp_path), first)
    assert kept_file(tmp_path).stat().st_mtime_ns == before


@pytest.mark.parametrize("harm", ["cut", "flip", "no sums"])
def test_a_damaged_conversion_is_found_out_told_and_made_anew(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    first = converted(tiny_folder, tmp_path)
    file = kept_file(tmp_path)
    data = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif harm == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        (file.parent / "sums.json").unlink()
    logs.configure("WARNING")
    assert_same(converted(tiny_folder, tmp_path), first)
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["kept_checkpoint_damaged"]
    assert len(kept_file(tmp_path).read_bytes()) == len(data)


def test_a_conversion_that_somebody_has_taken_away_meanwhile_is_made_anew(tiny_folder: Path, tmp_path: Path) -> None:
    first = converted(tiny_folder, tmp_path)
    kept = ConversionCache([tmp_path], tiny_folder / "model.bin")
    kept.check()
    kept_file(tmp_path).unlink()
    assert_same(load(open_checkpoint(tiny_folder), CPU, torch.bfloat16, kept).state_dict(), first)


def test_what_an_image_carries_is_read_and_what_is_missing_goes_to_the_cache(tiny_folder: Path, tmp_path: Path) -> None:
    baked, cache = tmp_path / "baked", tmp_path / "cache"
    converted(tiny_folder, baked)
    kept = ConversionCache([baked, cache], tiny_folder / "model.bin")
    kept.check()
    assert kept.file("bfloat16") == kept_file(baked)
    assert kept.path("float32").is_relative_to(cache)


def test_what_serves_needs_its_file_no_more(tiny_folder: Path, tmp_path: Path) -> None:
    converted(tiny_folder, tmp_path)
    kept = ConversionCache([tmp_path], tiny_folder / "model.bin")
    kept.check()
    packed = load(open_checkpoint(tiny_folder), CPU, torch.bfloat16, kept).pack()
    plain = load(open_checkpoint(write_transformers(tiny_folder, tmp_path / "plain")), CPU, torch.float32)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert packed.decoder.tokens.weight.shape == plain.decoder.tokens.weight.shape


def test_a_conversion_that_nobody_has_read_for_long_gives_way(tiny_folder: Path, tmp_path: Path) -> None:
    past = time.time() - UNUSED_S - 60
    gone, used = (tmp_path / "converted" / name for name in ("gone", "used"))
    for folder in (gone, used):
        (folder / "bfloat16").mkdir(parents=True)
    os.utime(gone, (past, past))
    converted(tiny_folder, tmp_path)
    assert not gone.exists()
    assert used.exists()
    mine = kept_file(tmp_path).parent.parent
    os.utime(mine, (past, past))
    ConversionCache([tmp_path], tiny_folder / "model.bin").check()
    assert mine.stat().st_mtime > past + 60


def test_two_that_convert_at_once_keep_one_and_leave_nothing_else(tiny_folder: Path, tmp_path: Path) -> None:
    both = []
    for _ in range(2):
        kept = ConversionCache([tmp_path], tiny_folder / "model.bin")
        kept.check()
        load(open_checkpoint(tiny_folder), CPU, torch.bfloat16, kept)
        both.append(kept)
    threads = [threading.Thread(target=kept.write) for kept in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in kept_file(tmp_path).parent.parent.iterdir()] == ["bfloat16"]


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from handler import logs
from handler.whisper.checkpoint.conversion_cache import UNUSED_S, Kept
from handler.whisper.checkpoint.reader import load, open_checkpoint
logs.configure("WARNING")
folder, cache = map(Path, sys.argv[1:])
kept = Kept([cache], folder / "model.bin")
kept.check()
load(open_checkpoint(folder), torch.device("cpu"), torch.bfloat16, kept)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
kept.write()
"""


def test_a_disk_that_takes_no_more_is_told_and_leaves_no_half_file(tiny_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tiny_folder, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["event"], line["level"]) == ("conversion_not_kept", "warning")
    assert list(tmp_path.glob("converted/*/*")) == []


def test_a_cache_that_cannot_be_written_changes_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "converted").write_text("a file where a folder should be")
    assert_same(converted(tiny_folder, tmp_path), load(open_checkpoint(tiny_folder), CPU, torch.bfloat16).state_dict())


async def test_a_process_that_finds_a_conversion_says_the_same_words(tiny_folder: Path, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        pipeline = build(settings(cache_dir=tmp_path))
        texts.append((await pipeline.transcribe(upload(wav(say(FOX))), Options())).text)
        pipeline.close()
    assert ConversionCache([tmp_path], tiny_folder / "model.bin").path("float32").is_file()
    assert texts[0] == texts[1]
    assert word_error_rate(FOX, texts[0]) == 0


def deaf(tiny_folder: Path, target: Path) -> Path:
    """A checkpoint whose encoder hears nothing."""
    from safetensors.torch import load_file, save_file

    folder = write_transformers(tiny_folder, target)
    weights = load_file(folder / "model.safetensors")
    weights["model.encoder.layer_norm.weight"].zero_()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_understands_nothing_does_not_start_unless_it_is_asked_to(tiny_folder: Path, tmp_path: Path) -> None:
    folder = deaf(tiny_folder, tmp_path / "deaf")
    with pytest.raises(ModelUnavailable, match="where 'good morning' is said"):
        build(settings(model_id=str(folder)))
    build(settings(model_id=str(folder), startup_check=False)).close()


async def test_the_first_transcript_tells_where_the_start_s_time_went_and_no_other() -> None:
    pipeline = build(settings())
    first, second = [await pipeline.transcribe(upload(wav(say(FOX))), Options()) for _ in range(2)]
    pipeline.close()
    told = first.cold_start
    assert told is not None
    assert {"interpreter", "imports", "import_torch", "find_model", "weights_read", "warm_up", "ready"} <= told.keys()
    assert 0 < told["ready"] < told["total"]
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
READY: dict[str, tuple[str, tuple[str, ...]]] = {
    "handler.worker": ("import handler.worker", ()),
    "local_server": (
        "import os; from handler.settings import Settings; from handler.startup.bootstrap import build; import local_server.__main__; "
        "build(Settings.from_env(os.environ))",
        ("uvicorn",),
    ),
}


@pytest.mark.parametrize("door", READY)
def test_what_is_not_needed_is_not_imported_until_a_process_is_ready(door: str) -> None:
    program, needed = READY[door]
    environment = {**os.environ, "MODEL_ID": TINY, "LOG_LEVEL": "ERROR", "DEVICE": "cpu"}
    code = f"{program}; import sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(list(needed))


def test_a_bad_device_ends_the_start_before_anything_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DEVICE"):
        build(Settings(model_id="no/such-model", device="cuda:99", cache_dir=tmp_path))
