"""Whole processes: interrupted, and two on one store."""

import json
import signal
import subprocess
import sys
import time

import pytest
from terminal import FAST

from unlearn.store import Store

pytestmark = pytest.mark.xdist_group("cli")  # one store serves the folder


def start(store, *words):
    """A process of its own on a store."""
    command = [sys.executable, "-m", "unlearn", *words, "--store", str(store)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def interrupt(process):
    """Sends Ctrl-C; the process says so in one line and ends with 130."""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "error: interrupted; what was finished is kept" in err
    assert "Traceback" not in err


def trained(store):
    return {p.name: (p / "weights.safetensors").stat().st_mtime_ns for p in (store / "trained").glob("*")}


def test_ctrl_c_while_the_original_trains_leaves_nothing_half_done(tmp_path):
    process = start(tmp_path, "run", "ssd", "--scenario", "digits/class=3,epochs=300")
    wait_for(lambda: list(tmp_path.glob(".draft-*")))
    time.sleep(0.5)
    interrupt(process)
    assert not list(tmp_path.glob(".draft-*"))
    assert not trained(tmp_path)


def test_ctrl_c_while_the_oracle_trains_keeps_the_original(tmp_path):
    words = ["run", "ssd", "--scenario", "digits/class=3,epochs=18", "--metrics", "accuracy"]
    process = start(tmp_path, *words)
    wait_for(lambda: trained(tmp_path) and list(tmp_path.glob(".draft-*")))
    interrupt(process)
    kept = trained(tmp_path)
    assert len(kept) == 1
    assert not list(tmp_path.glob(".draft-*"))
    again = start(tmp_path, *words)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert len(trained(tmp_path)) == 2
    assert trained(tmp_path).items() > kept.items(), "the original was not trained again"


def test_two_processes_share_one_store(tmp_path):
    both = [start(tmp_path, "run", name, *FAST, "--json") for name in ("ssd", "ssd", "none")]
    found = []
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        found += json.loads(out)
    assert len(trained(tmp_path)) == 2, "one original and one oracle serve all"
    first, second, idle = found
    assert first == second
    assert first["weights"]["oracle"] == idle["weights"]["oracle"]
    store = Store(tmp_path)
    assert not [e for e in store.entries() if store.damage(e)]
    assert not list(tmp_path.glob(".draft-*"))
