"""The commands that look after the store."""

import json

import pytest
from terminal import FAST, refused

pytestmark = pytest.mark.xdist_group("cli")  # one store serves the folder


def test_store_commands(unlearn, made, tmp_path):
    at = tmp_path / "own"
    assert unlearn("run", "ssd", *FAST, at=at)[0] == 0
    kinds = {e["kind"] for e in json.loads(unlearn("store", "ls", "--json", at=at)[1])}
    assert kinds == {"trained", "unlearned", "outputs", "report"}
    assert unlearn("store", "verify", at=at)[0] == 0
    victim = next((at / "unlearned").iterdir()) / "patch.safetensors"
    victim.write_bytes(victim.read_bytes()[:-8])
    code, out, _ = unlearn("store", "verify", at=at)
    assert code == 1
    assert "patch.safetensors" in out
    code, out, _ = unlearn("store", "verify", "--json", at=at)
    assert code == 1
    assert list(json.loads(out)["damaged"].values()) == [["patch.safetensors"]]
    assert len(json.loads(unlearn("store", "gc", "--json", at=at)[1])["removed"]) == 1
    assert unlearn("store", "verify", at=at)[0] == 0


def test_purge_removes_what_saw_the_forgotten_data(unlearn, tmp_path):
    at = tmp_path / "own"
    assert unlearn("run", "ssd", *FAST, at=at)[0] == 0
    code, out, _ = unlearn("store", "purge", "digits/class=3,epochs=2", "--json", at=at)
    removed = json.loads(out)["removed"]
    assert code == 0
    left = json.loads(unlearn("store", "ls", "--json", at=at)[1])
    assert sum(r.startswith("trained/") for r in removed) == 1
    assert [e["kind"] for e in left].count("trained") == 1, "the oracle never saw them and stays"
    assert not any(e["kind"] == "unlearned" for e in left)
    assert any(e["kind"] == "report" for e in left)


def test_purging_a_store_that_is_not_there_is_refused(unlearn, tmp_path):
    refused(unlearn("store", "purge", "digits/class=3", at=tmp_path / "absent"), "nothing was purged")


def test_purge_reaches_pictures_sequences_and_noisy_twins(unlearn, tmp_path):
    at = tmp_path / "own"
    assert unlearn("run", "none", *FAST, "--show-forgotten", at=at)[0] == 0
    assert (
        unlearn(
            "run", "none", "--scenario", "digits/class=1,epochs=2,noise=0.1", "--metrics", "accuracy", at=at
        )[0]
        == 0
    )
    assert unlearn("store", "purge", "digits/class=3+class=5", at=at)[0] == 0
    left = json.loads(unlearn("store", "ls", "--json", at=at)[1])
    kinds = [e["kind"] for e in left]
    assert kinds.count("trained") == 0, "all four models saw a 3 or a 5"
    assert not list((at / "pages").glob("*.html"))
    reports = [json.loads(p.read_text()) for p in (at / "report").glob("*/report.json")]
    assert not any(r["recipe"]["show_forgotten"] for r in reports)


def test_purge_reaches_what_a_purged_model_drew(unlearn, tmp_path):
    at, scenario = tmp_path / "own", "digits-ddpm/class=3,epochs=1,steps=2,drawings=1"
    words = ("run", "none", "--scenario", scenario, "--metrics", "erasure", "--json")
    (report,) = json.loads(unlearn(*words, at=at)[1])
    assert report["figures"]["drawings"]["images"]["original"]
    assert unlearn("store", "purge", scenario, at=at)[0] == 0
    left = json.loads(unlearn("store", "ls", "--json", at=at)[1])
    kinds = [e["kind"] for e in left]
    assert kinds.count("trained") == 1 and "report" not in kinds and "unlearned" not in kinds
    oracle = next(e["address"] for e in left if e["kind"] == "trained")
    drawn = [json.loads(p.read_text())["model"] for p in (at / "outputs").glob("*/recipe.json")]
    assert drawn and set(drawn) == {oracle}, "what the oracle drew stays"


def test_damaged_weights_in_the_store_are_one_line(unlearn, tmp_path):
    at = tmp_path / "own"
    assert unlearn("run", "none", *FAST, at=at)[0] == 0
    for path in (at / "trained").glob("*/weights.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    refused(unlearn("run", "ssd", *FAST, at=at), "cannot read weights")


def test_a_store_that_cannot_be_written_is_one_line(unlearn, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(unlearn("run", "ssd", *FAST, at=tmp_path / "file" / "store"), "cannot write the store", "--store")
