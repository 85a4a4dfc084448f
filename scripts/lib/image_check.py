"""Check an image from the inside: its user and what it can write. See scripts/image.

An image with a model must also answer `/hc`, transcribe, do a job from a queue, and end as it is asked to.
"""

import base64
import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.support.sls_queue import Queue

START_S = 300.0
PORT = "8765"
MODELS = Path("/opt/models")
JOB = json.loads(Path("test_input.json").read_text())["input"]
ALONE = {
    name: value for name, value in os.environ.items() if name != "PYTHONPATH"
}  # what was installed, and nothing of the checkout
WORDS = ("quick", "brown", "fox")


def who() -> None:
    """An ordinary user, a root that cannot be written, no compiler."""
    assert os.getuid() != 0, "the image runs as root"
    for folder in [Path(name) for name in ("/", "/opt/asr", "/app")] + ([MODELS] if MODELS.exists() else []):
        found = folder.stat()
        assert found.st_uid != os.getuid(), f"{folder} belongs to the user"
        assert not found.st_mode & stat.S_IWOTH, f"{folder} can be written by everybody"
    try:
        Path("/data/written").write_text("")
    except OSError as exc:
        if exc.errno != errno.EROFS:
            raise AssertionError("CACHE_DIR does not belong to the user") from exc
    else:
        raise AssertionError("the root can be written")
    where = subprocess.run(
        [sys.executable, "-c", "import handler; print(handler.__file__)"], env=ALONE, capture_output=True, text=True
    )
    assert where.stdout.startswith("/opt/asr/"), "what runs is not what was installed"
    assert not [name for name in ("gcc", "cc", "g++", "clang", "make") if shutil.which(name)], (
        "the image has a compiler"
    )
    with tempfile.NamedTemporaryFile():
        print("user, root and programs: as they should be")


def no_model() -> None:
    """PyTorch computes, and a start ends because there is no model, with the reason."""
    done = subprocess.run(["asr", "doctor"], env=ALONE, capture_output=True, text=True)
    found = dict(re.findall(r"^(\S.*?) {2,}(.*)$", done.stdout, re.MULTILINE))
    assert found.get("device"), f"the device could not be tried: {done.stdout}{done.stderr}"
    for module in ("handler", "local_server"):
        done = subprocess.run([sys.executable, "-m", module], env=ALONE, capture_output=True, text=True)
        reason = done.stderr.splitlines()[-1]
        assert done.returncode == 3, f"{module} ended with {done.returncode}: {reason}"
        assert "model_unavailable" in reason, reason
    print(f"{found['device']}, {found['attention']}; no model, and a start says so: {reason}")


def server() -> None:
    """`/hc`, one transcript, the page, and an end as it is asked for."""
    process = subprocess.Popen([sys.executable, "-m", "local_server"], env={**ALONE, "PORT": PORT})
    began = time.monotonic()
    while not _is_ready():
        assert process.poll() is None, "the server ended"
        assert time.monotonic() - began < START_S, "the server did not become ready"
        time.sleep(0.05)
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/asr?language=en", base64.b64decode(JOB["audio_base64"]))
    request.add_header("Content-Type", "audio/ogg")
    with urllib.request.urlopen(request) as response:
        _check_text(json.load(response)["text"])
    for path in ("/", "/page/main.js", "/metrics", "/docs", "/docs/swagger/swagger-ui-bundle.js", "/openapi.json"):
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}") as response:
            assert response.read(), f"{path} is empty"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, "the server did not end as it should"
    print("server: ready, understood, page and figures there, ended")


def worker() -> None:
    """One job from a queue."""
    with Queue() as queue:
        queue.put("job", JOB)
        process = subprocess.Popen(
            [sys.executable, "-m", "handler"], env={**ALONE, **queue.environment()}, stdout=subprocess.DEVNULL
        )
        output = queue.answer("job")["output"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "the worker did not end as it should"
    _check_text(output["text"])
    print("worker: understood, ended; where the time of its start went:")
    for stage, seconds in output["timing"]["cold_start"].items():
        print(f"  {stage:<20}{seconds:8.3f} s")


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/hc", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _check_text(text: str) -> None:
    assert all(word in text.lower() for word in WORDS), f"it understood {text!r}"


if __name__ == "__main__":
    who()
    if MODELS.exists():
        server()
        worker()
    else:
        no_model()
