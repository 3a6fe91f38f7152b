"""Summaries over seeds and the verdicts on them: numbers worked by hand."""

import math

import pytest
from reports import SALUN, report, score

from unlearn.policy import Criterion, Policy
from unlearn.report.summary import groups
from unlearn.report.verdict import LIMITS, judge, overall, verdict

# Summaries


def test_seeds_of_one_method_are_averaged_with_the_t_interval_of_the_specification():
    found = groups([report(seed=k, test=v) for k, v in enumerate((0.912, 0.905, 0.921, 0.917, 0.908))])
    assert len(found) == 1
    cell = found[0].cell("accuracy/test")
    assert cell.value == pytest.approx(0.9126)
    assert cell.half == pytest.approx(0.00808, abs=5e-6)
    assert cell.gap == pytest.approx(0.955 - 0.9126)
    assert (cell.low, cell.high) == pytest.approx((0.9126 - cell.half, 0.9126 + cell.half))


def test_the_gap_is_the_mean_of_distances_not_the_distance_of_means():
    cell = groups([report(seed=0, forget=0.01), report(seed=1, forget=0.05)])[0].forget
    assert cell.gap == pytest.approx(0.02)
    assert cell.excess == pytest.approx(0.0)
    assert cell.doubt == pytest.approx(12.7062 * (0.04 / math.sqrt(2)) / math.sqrt(2), rel=1e-4)


def test_one_seed_keeps_the_interval_of_its_score():
    cell = groups([report()])[0].forget
    assert cell.half is None
    assert (cell.low, cell.high) == pytest.approx((0.03, 0.05))
    assert cell.doubt == pytest.approx(math.sqrt(2) * 0.01)


def test_hyper_parameters_tell_groups_apart_and_name_only_what_differs():
    both = [report(values={**SALUN, "rho": r}) for r in (0.5, 0.9)]
    assert [g.label for g in groups(both)] == ["salun (rho=0.5)", "salun (rho=0.9)"]
    assert groups(both[:1])[0].label == "salun"


def test_steps_and_scenarios_are_kept_apart():
    later, other = report(), report()
    later.recipe["step"] = 1
    other.recipe["scenario"]["text"] = "digits/class=4"
    assert [g.label for g in groups([report(), later])] == ["salun (step 1)", "salun (step 2)"]
    wanted = ["salun (digits/class=3)", "salun (digits/class=4)"]
    assert [g.label for g in groups([report(), other])] == wanted


# Verdicts


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, "forgotten"),
        ({"forget": 0.6}, "not"),
        ({"auc": 0.6}, "visible"),
        ({"auc": 0.3}, "over"),
        ({"test": 0.9}, "partly"),
        ({"test": 0.5, "forget": 0.0}, "destroyed"),
        ({"oracle": False}, "unknown"),
        ({"oracle": False, "test": 0.5}, "destroyed"),
        ({"weights": {"original": "a", "unlearned": "a"}}, "nothing"),
    ],
)
def test_verdict_of_one_run(given, kind):
    assert judge(groups([report(**given)])[0]).kind == kind


@pytest.mark.parametrize("auc", [0.3, 0.7])
def test_no_verdict_rests_on_an_attack_without_power(auc):
    """It does not tell the original from the oracle; what it says of the unlearned model counts for nothing."""
    weak = score("mia/loss/auc", auc, 0.5, original=0.54)
    scores = tuple(weak if s.name == weak.name else s for s in report().scores)
    said = judge(groups([report(scores=scores)])[0])
    assert said.kind == "forgotten"
    assert "powerless" in said.text
    strong = weak.model_copy(update={"original": 0.56})
    scores = tuple(strong if s.name == weak.name else s for s in report().scores)
    assert judge(groups([report(scores=scores)])[0]).kind == ("over" if auc < 0.5 else "visible")


@pytest.mark.parametrize(
    ("limit", "words", "kind"),
    [(0.5, "Passes the policy", "forgotten"), (0.01, "Fails the policy", "not"), (None, "Cannot tell by the policy", "unclear")],
)  # fmt: skip
def test_the_verdict_is_that_of_the_policy_where_there_is_one(limit, words, kind):
    name = "accuracy/forget" if limit else "klom/forget"
    asked = Policy("mine", (Criterion(name, "at-most", limit or 1.0, "little is left"),), "text")
    made = report(policy=asked.applied(report().scores))
    said = overall(groups([made]))
    assert (said.words, said.kind) == (words, kind)
    assert "Of the first table alone: Forgotten and kept." in said.text
    assert ("What fails: little is left." in said.text) == (kind == "not")
    both = overall(groups([made, report("ssd", forget=0.7, policy=asked.applied(report(forget=0.7).scores))]))
    assert both.words == f"{int(kind == 'forgotten')} of 2 pass the policy"


@pytest.mark.parametrize(
    ("forget", "auc"), [(0.3, 0.51), (0.95, 0.35), (0.3, 0.35)], ids=["accuracy", "attack", "both"]
)
def test_an_over_forgotten_model_is_never_called_good(forget, auc):
    scores = (score("accuracy/forget", forget, 0.95), *report(auc=auc).scores[1:])
    said = judge(groups([report(scores=scores)])[0])
    assert said.kind == "over"
    assert "gives them away" in said.text


def test_a_distance_within_its_uncertainty_is_too_close_to_call():
    scores = report().scores
    vague = (*scores[:2], score("mia/loss/auc", 0.58, 0.5, half=0.1), *scores[3:])
    said = judge(groups([report(scores=vague)])[0])
    assert said.kind == "unclear"
    assert "mia/loss/auc to ± 0.141" in said.text


def test_collapse_in_one_seed_is_not_hidden_by_the_mean():
    said = judge(groups([report(seed=k, test=t) for k, t in enumerate((0.97, 0.97, 0.7))])[0])
    assert said.kind == "destroyed"
    assert "1 of 3 seeds" in said.text


def test_a_model_whose_answers_are_no_numbers_is_broken():
    """It is not the same as one of which nothing is known."""
    lost = {"note": "not finite: value, low"}
    none = [score(f"error/{k}/mae", None, 2.0, half=None, **lost) for k in ("forget", "test_retain")]
    said = judge(groups([report(scores=tuple(none))])[0])
    assert said.kind == "destroyed" and "not finite numbers" in said.text
    unknown = [s.model_copy(update={"note": "no oracle; not finite: value"}) for s in none]
    assert judge(groups([report(scores=tuple(unknown))])[0]).kind == "unknown"


def test_without_an_attack_the_verdict_says_that_privacy_is_not_judged():
    assert "privacy is not judged" in verdict([report(auc=None)])


def test_a_subject_without_accuracy_is_not_judged_by_thresholds():
    said = judge(groups([report(scores=(score("psnr/forget", 12.0, 11.5),))])[0])
    assert said.kind == "unknown"
    assert "psnr/forget 0.500" in said.text


def test_the_verdict_on_several_counts_and_names_them():
    reports = [
        report(),
        report("ssd", forget=0.7),
        report("none", weights={"original": "a", "unlearned": "a"}),
    ]
    said = overall(groups(reports))
    assert said.words == "1 of 3 forgot as the oracle and kept the rest"
    assert said.text == "Forgotten and kept: salun. Not forgotten: ssd. Nothing happened: none."
    assert LIMITS in verdict(reports)


def test_scores_that_doing_nothing_passes_tell_nothing():
    r"""The original already looks like the oracle: no verdict of success may rest on that."""
    scores = [
        score("accuracy/forget", 0.98, 0.98, 0.99),
        score("accuracy/test", 0.95, 0.955, 0.96),
        score("mia/loss/auc", 0.50, 0.50, 0.51),
    ]
    said = judge(groups([report(method="salun", scores=tuple(scores))])[0])
    assert said.kind == "unknown"
    assert "cannot show that anything was forgotten" in said.text


@pytest.mark.parametrize(
    "passed",
    [score("accuracy/forget", 0.98, 0.98, 0.99), score("mia/loss/auc", 0.51, 0.5, 0.51)],
    ids=lambda s: s.metric,
)
def test_one_score_that_doing_nothing_fails_is_enough(passed):
    scores = tuple(passed if s.name == passed.name else s for s in report().scores)
    assert judge(groups([report(scores=scores)])[0]).kind == "forgotten"
