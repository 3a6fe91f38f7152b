"""`unlearn run` with --plan and --policy, and what reports say of them."""

import json

import pytest

from unlearn.report import Report
from unlearn.report.held import held
from unlearn.report.html import render
from unlearn.report.markdown import render as markdown
from unlearn.store import Store

SMALL = "digits/random=0.2,epochs=1"


def reports(unlearn, tmp_path, *more):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[criteria]]\nscore = "accuracy/forget"\nrule = "at-most"\nlimit = 0.5\nwhy = "it is gone"\n'
        '[[criteria]]\nscore = "lira/auc"\nrule = "at-most"\nlimit = 0.6\n'
    )
    code, out, err = unlearn("run", "none", "--scenario", "digits/class=3,epochs=1", "--metrics", "accuracy", "--json",
                             "--policy", str(path), "--store", str(tmp_path / "store"), *more)  # fmt: skip
    assert code == 0, err
    return [Report.model_validate(r) for r in json.loads(out)], path


def test_a_report_holds_its_policy_and_what_became_of_it(unlearn, tmp_path):
    (found,), path = reports(unlearn, tmp_path)
    assert found.policy["text"] == path.read_text() and found.recipe["policy"] == found.policy["sha256"]
    assert [c["state"] for c in found.policy["criteria"]] == ["fail", "cannot tell"] and found.policy[
        "state"
    ] == "fail"
    shown = held([found])
    assert shown.state == "fail" and "fail (1 fails, 1 cannot tell)" in shown.words
    page = render([found])
    assert "What the policy asks" in page and "it is gone" in page and "not measured" in page
    assert "it is gone" in markdown([found])
    code, out, _ = unlearn("report", found.id, "--store", str(tmp_path / "store"))
    assert code == 0 and "fails: it is gone" in out and "cannot tell: lira/auc" in out
    path.write_text(path.read_text().replace("0.5", "2.0"))
    code, out, _ = unlearn("run", "none", "--scenario", "digits/class=3,epochs=1", "--metrics", "accuracy", "--json",
                           "--policy", str(path), "--store", str(tmp_path / "store"))  # fmt: skip
    (other,) = (Report.model_validate(r) for r in json.loads(out))
    assert other.id != found.id and other.policy["state"] == "cannot tell", "another policy, another report"


def test_over_seeds_a_criterion_must_hold_in_each(unlearn, tmp_path):
    found, _ = reports(unlearn, tmp_path, "--seeds", "2")
    found[1].policy["criteria"][0]["state"] = "pass"
    shown = held(found)
    assert shown.lines[0].state == "fail" and "holds in 1, fails in 1 of 2 seeds" in shown.lines[0].said
    found[1].policy["sha256"] = "another"
    assert held(found) is None


def test_the_command_says_it_and_stops(unlearn, tmp_path):
    asked = ("run", "ssd", "--scenario", SMALL, "--plan", "--store", str(tmp_path))
    code, out, _ = unlearn(*asked)
    assert code == 0 and "originals and oracles" in out and "in all" in out and "Memory: about" in out
    code, out, _ = unlearn(*asked, "--json")
    made = json.loads(out)
    assert code == 0 and made["seconds"] == pytest.approx(sum(i["seconds"] for i in made["items"]))
    assert not list(Store(tmp_path).entries("trained"))
