"""Settings of the process during and after a start."""

import gc
import subprocess
import sys

import pytest

from handler.startup.process_tuning import SWITCH_INTERVAL_S, fast_imports
from tests.conftest import ROOT


def test_imports_run_in_short_turns_without_garbage_collection_and_both_are_restored() -> None:
    switch_interval = sys.getswitchinterval()
    assert gc.isenabled()
    with fast_imports():
        assert not gc.isenabled()
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    assert gc.isenabled()
    assert sys.getswitchinterval() == switch_interval


def test_a_start_that_fails_restores_both_too() -> None:
    switch_interval = sys.getswitchinterval()
    with pytest.raises(KeyError), fast_imports():
        raise KeyError
    assert gc.isenabled()
    assert sys.getswitchinterval() == switch_interval


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with fast_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


FREEZE = """
import atexit, gc
from handler.startup.process_tuning import freeze_garbage_collector
atexit.register(lambda: print(gc.get_freeze_count()))
freeze_garbage_collector()
print(gc.get_freeze_count() > 1000)
"""


def test_objects_are_frozen_until_the_process_exits() -> None:
    process = subprocess.run([sys.executable, "-c", FREEZE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["True", "0"]
