"""The attack-power gate: an attack that does not tell the original from the oracle says nothing."""

import numpy as np
import pytest

from unlearn.ops.attacked import Attacked


def signals(ev, **shift):
    """Signals of members that lie so far above those of others, by model."""

    def of(who, where):
        rng = np.random.default_rng(len(where))
        values = rng.normal(size=len(ev.y(where)))
        return values + (shift.get(who, 0.0) if where in ("forget", "retain") else 0.0)

    return of


@pytest.mark.parametrize(("original", "powerless"), [(0.0, True), (3.0, False)])
def test_an_attack_without_power_says_so(world, original, powerless):
    ev = world()
    found = {s.name: s for s in Attacked(ev, "mia", "x", signals(ev, original=original), 20).scores()}
    score = found["x/auc"]
    assert (abs(score.original - score.reference) < 0.05) == powerless
    assert score.note.startswith("powerless: it does not tell the original") == powerless


def test_without_an_oracle_nobody_speaks_of_power(world):
    ev = world(oracle=None, oracle2=None)
    found = {s.name: s for s in Attacked(ev, "mia", "x", signals(ev), 20).scores()}
    assert "powerless" not in found["x/auc"].note and "no reference" in found["x/auc"].note
