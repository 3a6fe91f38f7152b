import pytest
import torch
from prompted import lent, naive, others, pairs, subject, text, weights

from unlearn.errors import BadData
from unlearn.methods.rece import RECE
from unlearn.methods.uce import UCE
from unlearn.ops.closed_form import factor, gram_of, lookalike, terms
from unlearn.runtime import Run

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
CONCEPTS, ANCHORS, KEPT = [(2,), (3, 4)], [(), (5,)], [(6,), (7, 8)]


def bring_back(new, old, c, reg):
    """c' of one vector as the paper writes it: sums over maps, and an inverse."""
    left = reg * torch.eye(len(c), dtype=c.dtype)
    right = torch.zeros_like(left)
    for w, w0 in zip(new, old, strict=True):
        left = left + w.T @ w
        right = right + w.T @ w0
    return torch.linalg.inv(left) @ right @ c


@pytest.mark.parametrize(
    "knobs", [{}, {"epochs": 1, "reg": 1e-3}, {"epochs": 2, "round_keep": 0.0, "tokens": "all"}]
)
def test_every_map_equals_the_formulas_in_a_loop(knobs):
    """UCE, then rounds of: c' of each token by itself, and the edit as the paper writes it."""
    method, before = RECE(**knobs), subject()
    old, c, empty = weights(before), text(before, *CONCEPTS), text(before, (), ())
    first = {n: getattr(method, n) for n in ("erase", "keep", "ridge", "tokens")}
    new = weights(UCE(**first).unlearn(subject(), lent(CONCEPTS, ANCHORS, KEPT), Run()))
    for _ in range(method.epochs):
        found = torch.stack([bring_back(new, old, v, method.reg) for v in c.flatten(0, 1)]).view_as(c)
        sums = (pairs(found, empty), empty.flatten(0, 1), method.round_erase, method.round_keep)
        new = [naive(w, *sums, method.round_ridge) for w in new]
    done = method.unlearn(subject(), lent(CONCEPTS, ANCHORS, KEPT), Run())
    for w, wanted in zip(weights(done), new, strict=True):
        torch.testing.assert_close(w, wanted, **CLOSE)


def edit(seed=0, maps=3, d=4):
    """Original maps as modules, an edit of them, and vectors."""
    rng = torch.Generator().manual_seed(seed)
    layers = [torch.nn.Linear(d, d + k, bias=False).double() for k in range(maps)]
    for m in layers:
        m.weight.data = torch.randn(m.weight.shape, generator=rng, dtype=torch.float64)
    c, g, v = (torch.randn(2, d, generator=rng, dtype=torch.float64) for _ in range(3))
    return layers, factor(terms(c, g, 1.0), 0.5), v


@pytest.mark.parametrize("reg", [1e-3, 0.1, 10.0])
def test_what_brings_the_concept_back_solves_the_normal_equations(reg):
    """The gradient of Σ |W c' - W0 c|² + r |c'|², by autograd through every map, is zero."""
    layers, f, c = edit()
    found = lookalike(gram_of(layers), f, c, reg).requires_grad_()
    gaps = [found @ (m.weight.detach() @ f).T - c @ m.weight.detach().T for m in layers]
    loss = sum(d.square().sum() for d in gaps) + reg * found.square().sum()
    (slope,) = torch.autograd.grad(loss, found)
    assert slope.abs().max() < 1e-10 * loss.item()
    for v, wanted in zip(c, found.detach(), strict=True):
        new, old = [m.weight.detach() @ f for m in layers], [m.weight.detach() for m in layers]
        torch.testing.assert_close(bring_back(new, old, v, reg), wanted, **CLOSE)


def test_without_an_edit_the_concept_brings_itself_back():
    """F = 1: c' = (r + G)⁻¹ G c, so |c' - c| is at most r / (r + s) |c| with s the least eigenvalue of G."""
    layers, _, c = edit()
    gram = gram_of(layers)
    found = lookalike(gram, torch.eye(4, dtype=torch.float64), c, 1e-6)
    least = torch.linalg.eigvalsh(gram)[0]
    assert (found - c).norm() <= 1e-6 / (1e-6 + least) * c.norm() * (1 + 1e-6)
    assert not torch.equal(found, c)


def missing(new, old, c):
    """What the best c' lacks of the original keys and values of the concept, as a share of them."""
    best = torch.stack([bring_back(new, old, v, 1e-6) for v in c])
    gap = sum((w @ best.T - w0 @ c.T).square().sum() for w, w0 in zip(new, old, strict=True))
    return float(gap / sum((w0 @ c.T).square().sum() for w0 in old))


def test_rounds_leave_less_that_brings_the_concept_back():
    """After UCE some text states give the original keys and values again; each round takes some of that away."""
    before, data = subject(), lent(CONCEPTS, ANCHORS)
    old, c = weights(before), text(before, *CONCEPTS)[:, :3].flatten(0, 1)
    each = (UCE(), *(RECE(epochs=n) for n in (1, 2, 3)))
    gaps = [missing(weights(m.unlearn(subject(), data, Run())), old, c) for m in each]
    assert gaps[0] < 1e-4 < gaps[1] < gaps[2] < gaps[3]


def test_only_the_projections_change():
    before = subject()
    done = RECE().unlearn(subject(), lent(CONCEPTS, ANCHORS, KEPT), Run())
    left, right = others(before), others(done)
    assert left.keys() == right.keys() and all(torch.equal(t, right[n]) for n, t in left.items())
    assert not any(torch.equal(a, b) for a, b in zip(weights(before), weights(done), strict=True))


def test_concepts_that_equal_their_anchors_are_refused():
    with pytest.raises(BadData, match="every concept equals its anchor"):
        RECE().unlearn(subject(), lent(CONCEPTS, CONCEPTS), Run())
