"""Near-duplicates: planted ones are found, others are not."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from unlearn.data import Resident
from unlearn.evals.leaks import Leaks
from unlearn.ops import duplicates
from unlearn.ops.duplicates import near_duplicates, nearest
from unlearn.sources import Arrays


def points(n, seed):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [7, 2048])
def test_nearest_neighbours_are_those_of_scikit_learn(rows, monkeypatch):
    monkeypatch.setattr(duplicates, "ROWS", rows)
    x, others = points(30, 0), points(50, 1)
    d, i = NearestNeighbors(n_neighbors=1).fit(others).kneighbors(x)
    found = nearest(x, others)
    torch.testing.assert_close(found[0], torch.tensor(d[:, 0]), rtol=1e-6, atol=1e-6)
    assert found[1].tolist() == i[:, 0].tolist()
    d, _ = NearestNeighbors(n_neighbors=2).fit(others).kneighbors(others)
    torch.testing.assert_close(
        nearest(others, others, same=True)[0], torch.tensor(d[:, 1]), rtol=1e-6, atol=1e-6
    )


def test_planted_duplicates_are_found_and_nothing_else():
    others = points(200, 2)
    x = torch.cat([points(20, 3), others[[5, 9]], others[[7]] + 1e-3])
    near, which = near_duplicates(x, others)
    assert near.tolist() == [False] * 20 + [True] * 3 and which[-3:].tolist() == [5, 9, 7]


def test_shares_and_conflicts_by_hand(world):
    """Of 40 forgotten examples the first four get twins in the retain set, two of them with another label."""
    ev = world()
    source, forget, retain = ev.handles["forget"].source, ev.handles["forget"].rows, ev.handles["retain"].rows
    clean = {s.name: s.value for s in Leaks().score_of(ev)}
    x, y = source.x.clone(), source.y.clone()
    x[retain[:4]] = x[forget[:4]]
    y[retain[:2]], y[retain[2:4]] = y[forget[:2]], (y[forget[2:4]] + 1) % 4
    made = Arrays(x, y)
    ev = world()
    ev.handles.update({n: Resident(made, rows=h.rows) for n, h in ev.handles.items()})
    found = {s.name: s for s in Leaks().score_of(ev)}
    assert found["leaks/retain"].value == pytest.approx(clean["leaks/retain"] + 0.1)
    assert found["leaks/conflicts"].value == pytest.approx(clean["leaks/conflicts"] + 0.05)
    assert found["leaks/test"].value == clean["leaks/test"] == 0
    assert all(s.value == s.original for s in found.values())
    said = Leaks().before(ev)
    n = round(40 * found["leaks/retain"].value)
    assert said[0].startswith(
        f"{n} of 40 forgotten examples have a near-duplicate in the retain set, from which"
    )
    assert "with another label" in said[1] and len(said) == 2 and not any("test set" in s for s in said)
