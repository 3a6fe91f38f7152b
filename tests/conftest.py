"""Fixtures and options that every test may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # the suite runs in parallel processes; those that tests start inherit it

import pytest
import torch

from unlearn import registry

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device of the tests: cpu, cuda, mps")


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def device(request):
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def shared():
    """The folder of real data sets; a test that needs it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real data sets is not here")
    return SHARED


@pytest.fixture(autouse=True)
def _plugins():
    """Plugins that a test registers are gone after it."""
    registries = (registry.methods, registry.metrics, registry.attacks, registry.subjects, registry.scenarios)
    before, modules = [set(r._live) for r in registries], set(sys.modules)
    yield
    for known, r in zip(before, registries, strict=True):
        for name in set(r._live) - known:
            if r._live[name].__module__.partition(".")[0] != "unlearn":
                del r._live[name]
    for name in set(sys.modules) - modules:
        if name.startswith("unlearn_file_"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a layout."""
    from pipelines import made

    root = tmp_path_factory.mktemp("pipelines")

    def folder(layout):
        path = root / layout
        if not path.is_dir():
            made(layout).save_pretrained(path)
        return path

    return folder
