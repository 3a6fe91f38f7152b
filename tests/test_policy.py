"""A policy fixed before the run: what it asks, what it says of scores, and that it fails closed."""

import hashlib

import pytest

from unlearn import policy
from unlearn.errors import BadValue
from unlearn.ops.attacked import gated
from unlearn.policy import DEFAULT, Policy, overall, read
from unlearn.registry import metrics
from unlearn.score import Aim, Score


def score(name="iam/forget", value=0.5, **more):
    return Score(**{"name": name, "metric": name.partition("/")[0], "value": value, "aim": Aim.MATCH, **more})


def one(rule, limit, score="iam/forget"):
    text = f'[[criteria]]\nscore = "{score}"\nrule = "{rule}"\nlimit = {limit}\n'
    return Policy("one", (policy.Criterion(score, rule, float(limit)),), text)


def state(rule, limit, *scores):
    (found,) = one(rule, limit).judge(scores)
    return found.state


@pytest.mark.parametrize(
    ("rule", "limit", "given", "expected"),
    [
        ("at-most", 0.5, {"value": 0.5}, "pass"), ("at-most", 0.5, {"value": 0.51}, "fail"),
        ("at-least", 0.5, {"value": 0.5}, "pass"), ("at-least", 0.5, {"value": 0.49}, "fail"),
        ("floor", 1.5, {"value": 0.3, "floor": 0.2}, "pass"), ("floor", 1.5, {"value": 0.31, "floor": 0.2}, "fail"),
        ("floor", 1.5, {"value": 0.3}, "cannot tell"),
        ("within", 0.01, {"value": 0.95, "reference": 0.96}, "pass"),
        ("within", 0.01, {"value": 0.94, "reference": 0.96}, "fail"),
        ("within", 0.01, {"value": 0.94, "reference": 0.96, "low": 0.92, "high": 0.96}, "cannot tell"),
        ("within", 0.01, {"value": 0.84, "reference": 0.96, "low": 0.82, "high": 0.86}, "fail"),
        ("within", 0.01, {"value": 0.94}, "cannot tell"),
        ("not-below", 2, {"value": 0.47, "reference": 0.5, "original": 0.0, "low": 0.4308, "high": 0.5092}, "pass"),
        ("not-below", 2, {"value": 0.45, "reference": 0.5, "original": 0.0, "low": 0.4108, "high": 0.4892}, "fail"),
        ("not-below", 2, {"value": 0.9, "reference": 0.5, "original": 0.0, "low": 0.89, "high": 0.91}, "pass"),
        ("not-above", 2, {"value": 0.9, "reference": 0.5, "original": 1.0, "low": 0.89, "high": 0.91}, "fail"),
        ("not-above", 2, {"value": 0.53, "reference": 0.5, "original": 1.0, "low": 0.4908, "high": 0.5692}, "pass"),
        ("not-above", 2, {"value": 0.5, "reference": 0.5, "original": 1.0}, "cannot tell"),
        # two standard errors of 0.02 and a distance of 0.03 between oracles: 2 * sqrt(0.0004 + 0.0009) = 0.0721
        ("not-above", 2, {"value": 0.572, "reference": 0.5, "floor": 0.03, "low": 0.5328, "high": 0.6112}, "pass"),
        ("not-above", 2, {"value": 0.573, "reference": 0.5, "floor": 0.03, "low": 0.5338, "high": 0.6122}, "fail"),
        ("not-below", 2, {"value": 0.9998, "reference": 1.0, "floor": 0.0001, "low": 0.9998, "high": 0.9998}, "pass"),
    ],
)  # fmt: skip
def test_each_rule_by_hand(rule, limit, given, expected):
    assert state(rule, limit, score(**given)) == expected


@pytest.mark.parametrize("rule", policy.RULES)
def test_what_was_not_measured_or_has_no_value_is_no_pass(rule):
    assert state(rule, 1.0) == "cannot tell"
    (found,) = one(rule, 1.0).judge([score(value=None, note="refused: too few examples")])
    assert (found.state, found.said) == ("cannot tell", "refused: too few examples")


@pytest.mark.parametrize("rule", policy.RULES)
@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_no_rule_rests_on_an_attack_without_power(rule, limit):
    """Whatever the numbers: it neither holds nor fails."""
    weak = gated(score(value=0.3, reference=0.5, original=0.52, floor=0.1, low=0.2, high=0.4))
    (found,) = one(rule, limit).judge([weak])
    assert found.state == "cannot tell"
    assert "powerless: it does not tell the original, 0.52, from the oracle, 0.50" in found.said


def test_an_attack_has_power_from_a_distance_of_five_hundredths():
    assert gated(score(value=0.3, reference=0.5, original=0.549)).powerless
    for original, reference in ((0.551, 0.5), (0.449, 0.5), (None, 0.5), (0.5, None)):
        assert not gated(score(value=0.3, reference=reference, original=original)).powerless


def test_the_whole_fails_closed():
    made = {
        s: policy.Finding(policy.Criterion("a", "at-most", 1), s, "") for s in ("pass", "fail", "cannot tell")
    }
    assert overall([made["pass"], made["pass"]]) == "pass"
    assert overall([made["pass"], made["cannot tell"]]) == "cannot tell" == overall([])
    assert overall([made["cannot tell"], made["fail"]]) == "fail"


def test_of_several_names_the_first_that_was_measured_counts():
    both = one("at-most", 0.5, "accuracy/test_retain|accuracy/test")
    assert both.judge([score("accuracy/test", 0.1)])[0].state == "pass"
    assert both.judge([score("accuracy/test", 0.1), score("accuracy/test_retain", 0.9)])[0].state == "fail"
    refused = score("accuracy/test_retain", None, note="refused: too few")
    assert both.judge([refused, score("accuracy/test", 0.1)])[0].state == "pass"
    assert both.judge([refused])[0].said == "refused: too few"


def test_the_default_is_read_and_hashed_and_names_what_there_is():
    found = read(None, metrics.names())
    assert found.name == "default" and len(found.criteria) == 8
    assert found.digest == hashlib.sha256(DEFAULT.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("criteria = 3 =", "cannot read a policy from .*; `unlearn policy` prints the default"),
        ("name = 'x'", r"has no \[\[criteria\]\], so nothing could fail"),
        ("[[criteria]]\nscore = 'iam/forget'\nrule = 'at-most'", "has a criterion without limit"),
        ("[[criteria]]\nscore = 'iam/forget'\nrule = 'below'\nlimit = 1", "has a rule 'below'; the rules are within"),
        ("[[criteria]]\nscore = 'iam/forget'\nrule = 'at-most'\nlimit = 'x'", "has a limit 'x'; give a number"),
        ("[[criteria]]\nscore = 'iam/forget'\nrule = 'at-most'\nlimit = true", "has a limit True; give a number"),
        ("[[criteria]]\nscore = 'iamm/forget'\nrule = 'at-most'\nlimit = 1", "names a score 'iamm/forget' of no metric"),
        ("[[criteria]]\nscore = 'iam/forget'\nrule = 'at-most'\nlimit = 1\nx = 2", "has a field 'x'; the fields are"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_hold_is_one_line(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadValue, match=said) as caught:
        read(path, metrics.names())
    assert "\n" not in str(caught.value)
    with pytest.raises(BadValue, match="cannot read a policy from"):
        read(tmp_path / "absent.toml", metrics.names())
