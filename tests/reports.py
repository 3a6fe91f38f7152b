"""Reports made up of a few numbers, with data for every picture."""

from unlearn.methods.salun import SalUn
from unlearn.report import Costs, Report
from unlearn.score import Aim, Score

SALUN = SalUn().to_dict()


def score(name, value, reference, original=1.0, half=0.01, **rest):
    ends = (
        {}
        if value is None or half is None
        else {"low": value - half, "high": value + half, "interval": "wilson 95 %"}
    )
    metric = name.partition("/")[0]
    return Score(
        name=name,
        metric=metric,
        value=value,
        reference=reference,
        original=original,
        aim=Aim.MATCH,
        headline=True,
        **ends,
        **rest,
    )


def report(method="salun", seed=0, forget=0.04, test=0.95, auc=0.51, oracle=True, values=None, **changes):
    forget_ref, test_ref, auc_ref = (0.03, 0.955, 0.5) if oracle else (None, None, None)
    scores = [
        score("accuracy/forget", forget, forget_ref, 0.99),
        score("accuracy/test", test, test_ref, 0.96),
    ]
    if auc is not None:
        scores.append(score("mia/loss/auc", auc, auc_ref, 0.7))
    scores.append(
        Score(name="weight-distance/original", metric="weight-distance", value=1.2345, aim=Aim.DOWN)
    )
    fields = {
        "id": f"{method}{seed}",
        "recipe": {
            "scenario": {
                "name": "digits",
                "request": {"kind": "class", "label": "3"},
                "options": {"network": "resnet8"},
                "text": "digits/class=3",
            },
            "step": 0,
            "seeds": {"train": seed, "draw": seed, "method": seed},
            "method": {"name": method, "values": values or {}},
            "oracles": ["x"] if oracle else [],
        },
        "request": {"text": "class=3", "kind": "class", "sizes": {"forget": 90, "retain": 810}},
        "scores": tuple(scores),
        "costs": Costs(
            seconds=0.5,
            peak_bytes=2**20,
            read={"forget": 90},
            changed=0.5,
            oracle_seconds=5.0 if oracle else None,
        ),
        "weights": {"original": "a" * 64, "unlearned": "b" * 64},
        "figures": drawn(oracle),
        "environment": {"python": "3.11", "packages": {"torch": "2.13"}},
        "created": "2026-01-02T03:04:05+00:00",
    }
    return Report(**{**fields, **changes})


def drawn(oracle=True):
    who = ["original", "unlearned", "oracle"] if oracle else ["original", "unlearned"]
    sets = {"forget": [0.5, 0.5], "audit": [0.2, 0.8]}
    points = [[0.0, 0.0], [1.0, 1.0], [2.0, 0.5], [0.5, 2.0]]
    return {
        "loss": {"edges": [0.001, 0.1, 10.0], "log": True, "share": dict.fromkeys(who, sets), "not_finite": dict.fromkeys(who, 0)},
        "entropy": {"edges": [0.0, 1.0, 2.0], "log": False, "share": dict.fromkeys(who, sets), "not_finite": dict.fromkeys(who, 0)},
        "roc": {"fpr": [0.1, 0.5, 1.0], "members": 9, "others": 10, "tpr": {w: [0.2, 0.6, 1.0] for w in who}, "auc": dict.fromkeys(who, 0.55)},
        "classes": {"names": ["ant", "bee"], "removed": [1], "n": [5, 5], "accuracy": {w: [0.9, 0.8] for w in who}},
        "features": {"forgotten": 2, "explained": [0.6, 0.3], "y": [1, 1, 0, 0], "names": ["ant", "bee"], "points": dict.fromkeys(who, points)},
    }  # fmt: skip


ERASED = {"ua": (0.99, 0.02, 0.98), "in-domain": (0.94, 0.96, 0.95), "cross-domain": (0.97, 0.98, 0.98),
          "nothing": (0.01, 0.01, 0.01)}  # fmt: skip
"""Of an erasure that worked: value, original, oracle."""


def erasure(method="esd", seed=0, oracle=True, changes=None, half=0.01, **rest):
    """A report on the concept three; `changes` replaces some of `ERASED`."""
    scores = tuple(
        score(f"erasure/{name}", value, reference if oracle else None, original, half)
        for name, (value, original, reference) in {**ERASED, **(changes or {})}.items()
    )
    made = report(method, seed, scores=scores, figures=painted(oracle), **rest)
    made.recipe["scenario"] |= {"name": "ink", "text": "ink/concept=three"}
    return made


def painted(oracle=True):
    who = ["original", "unlearned", "oracle"] if oracle else ["original", "unlearned"]
    seen = {
        "original": ["three", "three", "four"],
        "unlearned": ["eight", "three", None],
        "oracle": ["two", "five", "four"],
    }
    objects = {"original": [0.95, 0.9], "unlearned": [0.5, 0.875], "oracle": [0.0, 0.9]}
    styles = {"original": [1.0, None], "unlearned": [0.75, None], "oracle": [1.0, None]}
    return {
        "drawings": {
            "concept": "three", "axis": "object", "captions": ["a three in chalk", "a three in neon", "a four in chalk"],
            "asked": ["three", "three", "four"], "asks": [True, True, False],
            "images": {w: [f"{w}{k}" for k in range(3)] for w in who}, "seen": {w: seen[w] for w in who},
        },
        "concepts": [
            {"axis": "object", "names": ["three", "four"], "erased": "three", "n": [20, 40], "right": {w: objects[w] for w in who}},
            {"axis": "style", "names": ["chalk", "unasked"], "erased": None, "n": [4, 0], "right": {w: styles[w] for w in who}},
        ],
    }  # fmt: skip
