import itertools
import math

import pytest
import torch
from prompted import ids, lent, naive, others, subject, text, weights
from torch import nn
from watched import forbid_copies

from unlearn.errors import BadData
from unlearn.methods.mace import MACE, aligned, fuse, suppression, times
from unlearn.ops import otsu
from unlearn.ops.closed_form import factor, terms
from unlearn.runtime import Run

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
CONCEPTS, ANCHORS, KEPT = [(2,), (5, 2, 6)], [(), (5, 3, 4, 6)], [(6,), (7, 8)]
STILL = {"iterations": 1, "lr": 1e-300}
"""Training that leaves ΔW at zero: what is left is step 1."""


def split(anchors=ANCHORS):
    return lent(CONCEPTS, anchors, KEPT)


def test_tokens_that_two_prompts_share_by_hand():
    """Begin, shared words, and from the first shared word behind the concept on; padding runs along."""
    cat, dog = torch.tensor([0, 4, 5, 6, 7, 1, 1, 1]), torch.tensor([0, 4, 8, 7, 1, 1, 1, 1])
    here, there = aligned(cat, dog, 5, 4)
    assert (here.tolist(), there.tolist()) == ([0, 1, 4, 5, 6, 7], [0, 1, 3, 4, 5, 6])
    here, there = aligned(dog, cat, 4, 5)  # one end more than there is behind the other's
    assert (here.tolist(), there.tolist()) == ([0, 1, 3, 4, 5, 6, 7], [0, 1, 4, 5, 6, 7, 7])
    here, there = aligned(cat, torch.tensor([0, *[1] * 7]), 5, 1)
    assert (here.tolist(), there.tolist()) == ([0, 5, 6, 7], [0, 1, 2, 3])
    twice, once = torch.tensor([0, 5, 5, 1, 1]), torch.tensor([0, 5, 1, 1, 1])
    here, there = aligned(twice, once, 3, 2)  # no token is shared twice
    assert (here.tolist(), there.tolist()) == ([0, 1, 3, 4], [0, 1, 2, 3])


def around(before):
    """States of the tokens around the concepts, and what they become, picked by hand."""
    c, g = text(before, *CONCEPTS), text(before, *ANCHORS)
    first = [(c[0, i], g[0, j]) for i, j in ((0, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5), (7, 6))]
    second = [(c[1, i], g[1, j]) for i, j in ((0, 0), (1, 1), (3, 4), (4, 5), (5, 6), (6, 7), (7, 7))]
    return first + second


@pytest.mark.parametrize(("keep", "ridge"), [(1.0, 0.1), (0.25, 2.0), (0.0, 0.5)])
def test_the_first_step_is_the_formula_in_a_loop_over_the_tokens_around(keep, ridge):
    before = subject()
    kept = text(before, *KEPT).flatten(0, 1)
    done = MACE(keep=keep, ridge=ridge, **STILL).unlearn(subject(), split(), Run())
    for w0, w in zip(weights(before), weights(done), strict=True):
        torch.testing.assert_close(w, naive(w0, around(before), kept, 1.0, keep, ridge), **CLOSE)


def test_the_last_step_solves_the_normal_equations():
    """The gradient of its objective, by autograd over every map at once, is zero."""
    rng = torch.Generator().manual_seed(0)
    e, p = (torch.randn(n, 5, generator=rng, dtype=torch.float64) for n in (3, 4))
    maps = [nn.Linear(5, out, bias=False).double() for out in (4, 6)]
    old = [m.weight.detach().clone() for m in maps]
    low = nn.ModuleDict()
    for k, out in enumerate((4, 6)):
        low[str(k)] = Rank(
            torch.randn(out, 1, generator=rng).double(), torch.randn(1, 5, generator=rng).double()
        )
    keep, ridge = 0.7, 0.3
    fuse(maps, low, factor(terms(e, 2 * e, 1.0) + terms(p, p, keep), ridge))
    for m, w, beside in zip(maps, old, low.values(), strict=True):
        new = m.weight.detach().clone().requires_grad_()
        goal = e @ (w + beside.up @ beside.down).T
        loss = (
            ((e @ new.T - goal) ** 2).sum()
            + keep * ((p @ (new - w).T) ** 2).sum()
            + ridge * ((new - w) ** 2).sum()
        )
        (slope,) = torch.autograd.grad(loss, new)
        assert loss > 1e-3 and slope.abs().max() < 1e-10


class Rank(nn.Module):
    """A map of rank one as `LowRank` holds it."""

    def __init__(self, up, down):
        super().__init__()
        self.up, self.down = nn.Parameter(up, requires_grad=False), nn.Parameter(down, requires_grad=False)


def test_the_loss_by_hand():
    """Two heads, four queries of a 2 x 2 layer, three tokens, one of which is named; the left half is marked."""
    a = torch.arange(24, dtype=torch.float64).view(1, 2, 4, 3) / 24
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2] = 1
    named = torch.tensor([[False, True, False]])
    wanted = sum(float(a[0, h, q, 1]) ** 2 for h in (0, 1) for q in (0, 2))
    assert float(suppression([a], named, mask)) == pytest.approx(wanted, rel=1e-12)
    assert float(suppression([a, 2 * a], named, mask)) == pytest.approx(5 * wanted, rel=1e-12)
    both = suppression([torch.cat([a, 0 * a])], named.expand(2, -1), mask.expand(2, -1, -1, -1))
    assert float(both) == pytest.approx(wanted / 2, rel=1e-12)


def test_a_mask_is_averaged_down_to_layers_of_other_shape():
    """Six queries of a layer 2 high and 3 wide, for a mask 4 high and 6 wide: a half-marked place counts half."""
    mask = torch.zeros(1, 1, 4, 6, dtype=torch.float64)
    mask[0, 0, 0, :2] = 1  # half of the first place
    a = torch.ones(1, 1, 6, 1, dtype=torch.float64)
    assert float(suppression([a], torch.tensor([[True]]), mask)) == pytest.approx(0.25, rel=1e-12)


def test_times_follow_their_odds():
    """Of 20,000 draws, the share below 200, in between and above 400 is that of the density over 0 to 999."""
    odds = [
        1 / (1 + math.exp(-0.05 * (t - 200))) - 1 / (1 + math.exp(-0.05 * (t - 400))) for t in range(1000)
    ]
    run, s = Run(), subject()
    drawn = torch.cat([times(s, 500, run) for _ in range(40)])
    edges = (0, 200, 300, 400, 1000)
    for low, high in itertools.pairwise(edges):
        share = sum(odds[low:high]) / sum(odds)
        assert float(((drawn >= low) & (drawn < high)).double().mean()) == pytest.approx(share, abs=0.025)


def brute(values):
    """Otsu's threshold by trying every gap between sorted values: the division with the largest variance between."""
    v = sorted(values.flatten().tolist())
    best = max(
        range(1, len(v)), key=lambda k: k * (len(v) - k) * (sum(v[:k]) / k - sum(v[k:]) / (len(v) - k)) ** 2
    )
    return v[best - 1], v[best]


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_divides_as_trying_all_divisions_does(seed):
    rng = torch.Generator().manual_seed(seed)
    low, high = torch.rand(40, generator=rng) * 0.4, 0.5 + torch.rand(25, generator=rng) * 0.5
    below, above = brute(torch.cat([low, high]))
    found = float(otsu.threshold(torch.cat([low, high])))
    assert below < found <= above


def test_masks_mark_strokes_whether_they_are_dark_or_bright():
    stroke = torch.zeros(1, 3, 6, 6)
    stroke[..., 2, 1:5] = 0.9
    found = otsu.masks(torch.cat([stroke, 1 - stroke]))
    wanted = torch.zeros(6, 6)
    wanted[2, 1:5] = 1
    assert found.shape == (2, 1, 6, 6) and all(torch.equal(m[0], wanted) for m in found)
    assert not otsu.masks(torch.full((1, 3, 4, 4), 0.3)).any()


def test_training_turns_attention_away_from_the_named_tokens():
    """The logged loss falls, and so does attention to the concept's token in drawings, by the maps that were fused."""
    run, s = Run(), subject()
    MACE(
        images=4, iterations=60, batch_size=4, lr=0.05, mask="whole", ends=False, ridge=1e-3, keep=0.01
    ).unlearn(s, split(), run)
    first, last = run.log["loss"][0], run.log["loss"][-1]
    assert last < 0.5 * first
    prompt = torch.tensor([ids(2)])
    z, t = torch.randn(1, 1, 8, 8, dtype=torch.float64), torch.tensor([300])
    with torch.no_grad():
        seen = [sum(float(a[..., 1].sum()) for a in x.attention(z, t, text(x, (2,)))) for x in (subject(), s)]
    assert prompt[0, 1] == 2 and seen[1] < 0.7 * seen[0]


def test_only_the_projections_change():
    before = subject()
    done = MACE(iterations=3, images=3, batch_size=2).unlearn(subject(), split(), Run())
    left, right = others(before), others(done)
    assert left.keys() == right.keys() and all(torch.equal(t, right[n]) for n, t in left.items())
    assert not any(torch.equal(a, b) for a, b in zip(weights(before), weights(done), strict=True))


def test_no_second_model_is_made(monkeypatch):
    s = subject()
    forbid_copies(monkeypatch, deep=True)
    MACE(iterations=2, images=2).unlearn(s, split(), Run())


def test_concepts_that_equal_their_anchors_are_refused():
    with pytest.raises(BadData, match="every concept equals its anchor"):
        MACE().unlearn(subject(), split(CONCEPTS), Run())
