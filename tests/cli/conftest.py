"""One store and two runs in it, for every test of the command line."""

import json
import subprocess
import sys

import pytest
from terminal import FAST, call

from unlearn.report import Report


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def unlearn(capsys, monkeypatch, store):
    def run(*argv, at=store):
        monkeypatch.setenv("UNLEARN_STORE", str(at))
        return call(capsys, monkeypatch, *argv)

    return run


@pytest.fixture(scope="session")
def made(store):
    """Two reports in the store."""
    command = [sys.executable, "-m", "unlearn", "run", "ssd", "none", *FAST, "--store", str(store), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [Report.model_validate(r) for r in json.loads(done.stdout)]
