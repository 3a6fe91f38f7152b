"""Runs that change nothing are errors after they were shown; harder forget sets stand beside the one asked for."""

import json

import pytest
from terminal import refused

from unlearn import api, hard
from unlearn.errors import NoEffect
from unlearn.report import Report
from unlearn.store import Store

pytestmark = pytest.mark.xdist_group("cli")
SMALL = "digits/random=0.1,epochs=1"
IDLE = '''
"""A method that does nothing and does not say so."""

from unlearn.method import Method
from unlearn.registry import methods
from unlearn.subject import Classifies


@methods.register("idle-one")
class IdleOne(Method[Classifies]):
    """Selects nothing and returns the model as it was.

    References:
        None; a control.
    """

    def unlearn(self, subject: Classifies, data, run):
        """See `Method.unlearn`."""
        return subject
'''


def test_a_method_that_changes_nothing_is_an_error_and_its_report_is_kept(unlearn, tmp_path):
    plugin, store = tmp_path / "idle.py", tmp_path / "store"
    plugin.write_text(IDLE)
    words = ("--plugin", str(plugin), "--scenario", SMALL, "--metrics", "accuracy", "--store", str(store))
    code, out, err = unlearn("run", "idle-one", *words)
    assert code == 2 and "Nothing happened" in out, "it is shown first"
    assert err.startswith("error: idle-one changed nothing on digits/random=0.1") and err.count("\n") == 1
    assert len(list(Store(store).entries("report"))) == 1
    code, out, err = unlearn("run", "none", *words)
    assert code == 0, "a control may change nothing"
    with pytest.raises(NoEffect, match="not one weight or buffer differs"):
        api.run("idle-one", SMALL, store=store, metrics=["accuracy"])


def test_harder_sets_of_the_same_size_stand_beside_the_request(unlearn, tmp_path, monkeypatch):
    monkeypatch.setattr(hard, "PIECES", 3)
    store = ("--store", str(tmp_path))
    words = ("run", "finetune", "--epochs", "1", "--scenario", SMALL, "--metrics", "accuracy", *store)
    code, out, err = unlearn(*words, "--difficulty", "alike,sequential", "--json")
    assert code == 0, err
    asked, alike, last = (Report.model_validate(r) for r in json.loads(out))
    sizes = [r.request["sizes"]["forget"] for r in (asked, alike, last)]
    assert sizes[0] == sizes[1] == 90 and sizes[2] == 30, "the last of three requests, one after another"
    assert alike.request["text"].startswith("indices=90 alike examples (") and last.recipe["step"] == 2
    assert last.request["sizes"]["forgotten"] == 60
    code, out, err = unlearn(*words, "--difficulty", "alike")
    assert code == 0 and "alike examples" in out and "random=0.1" in out
    refused(unlearn(*words, "--difficulty", "odd"), "no difficulty called 'odd'; choose some of memorised")
    refused(unlearn(*words, "--difficulty", "easy", "--plan"), "--plan knows no forget set that is chosen")
    refused(
        unlearn(*words, "--difficulty", "easy", "--out", str(tmp_path / "o.safetensors")), "leave out one"
    )
