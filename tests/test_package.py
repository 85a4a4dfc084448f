"""The package agrees with its documents, and imports no more than it needs."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from itertools import chain

from handler import __version__
from tests.conftest import ROOT, TINY

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run_python(code: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a program in a process of its own and return what it prints."""
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["version"] == __version__
    entry = re.search(r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert entry is not None
    assert entry[1] == __version__


def test_every_dependency_is_pinned_for_tests() -> None:
    files = (ROOT / "constraints.txt", ROOT / "constraints-openvino.txt")
    constraints = chain.from_iterable(file.read_text().splitlines() for file in files)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in constraints}
    extras = chain.from_iterable(PROJECT["optional-dependencies"].values())
    names = {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in (*PROJECT["dependencies"], *extras)}
    assert names <= pinned


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "av", "soundfile", "fastapi", "boto3", "runpod", "transformers", "requests"]
    assert run_python(f"import handler, sys; print([name for name in {heavy} if name in sys.modules])") == "[]"


def test_the_worker_does_not_import_transformers_or_the_server() -> None:
    heavy = ("transformers", "fastapi", "uvicorn", "boto3", "optimum")
    code = f"import handler.worker, sys; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code, {"MODEL_ID": TINY, "LOG_LEVEL": "ERROR", "PATH": ""}) == "[]"


def test_every_file_that_the_readme_names_exists() -> None:
    section = (ROOT / "README.md").read_text().partition("## Where things are")[2]
    cells = re.findall(r"^\| (.+?) \|", section, re.MULTILINE)[2:]
    paths = list(chain.from_iterable(re.findall(r"`([^`]+)`", cell) for cell in cells))
    assert len(paths) > 8
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_sdk_is_imported_without_the_process_that_measures_the_processor() -> None:
    code = """
import sys
spawning = ('subprocess.', 'os.posix_spawn', 'os.fork')
sys.addaudithook(lambda event, _: sys.exit(event) if event.startswith(spawning) else None)
from handler.runpod_sdk import import_sdk
assert import_sdk().serverless.start
debugger = import_sdk('runpod.serverless.utils.rp_debugger')
assert 'cpuinfo' not in sys.modules
import logging
assert logging.getLogger().handlers == [], 'the SDK writes plain text beside the log'
print(debugger.PROCESSOR)
"""
    assert run_python(code)
