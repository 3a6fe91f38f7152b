import copy

import pytest
import torch
from prompted import lent, subject, text
from watched import forbid_copies, moved, raw, watch

from unlearn.errors import BadData
from unlearn.methods.all_but_one import AllButOne, objective, scores
from unlearn.ops.erasure import encoded
from unlearn.registry import methods
from unlearn.runtime import Run

CONCEPT, OTHER, NOTHING = [(2,), (3, 4)], [(5,), (6, 7)], [(), ()]


def points(n=2, seed=0):
    z = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
    return z, torch.tensor([17, 900])[:n]


def told(s, rows):
    return encoded(s, lent(rows, rows).concept)


def test_the_two_terms_by_hand():
    """Student: ε(∅) = 1, ε(c) = 4; teacher: ε*(∅) = 3, ε*(a) = 5. So G = 3 or, from the teacher, 1; G* = 2."""
    values = [torch.tensor([v]) for v in (1.0, 4.0, 3.0, 5.0)]
    for reference, guidance in (("student", 1.0), ("detached", 1.0), ("teacher", 1.0)):
        got = objective((values[0], values[1]), (values[2], values[3]), reference)
        assert [float(v) for v in got] == [guidance, 4.0]
    other = torch.tensor([6.0])
    assert [
        float(objective((values[0], other), (values[2], values[3]), r)[0]) for r in ("student", "teacher")
    ] == [
        9.0,
        1.0,
    ]


@pytest.mark.parametrize(("reference", "slope"), [("student", -2.0), ("detached", 0.0), ("teacher", 0.0)])
def test_whether_the_guidance_term_moves_the_unconditional_prediction(reference, slope):
    """d/dε(∅) of (ε(c) − ε(∅) − G*)² at ε(c) − ε(∅) − G* = 1 is −2, where there is a gradient."""
    free, named = torch.tensor([1.0], requires_grad=True), torch.tensor([4.0], requires_grad=True)
    loss, _ = objective((free, named), (torch.tensor([3.0]), torch.tensor([5.0])), reference)
    got = torch.autograd.grad(loss, [free, named], allow_unused=True)
    assert float(got[0] if got[0] is not None else 0.0) == slope and float(got[1]) != 0


@torch.no_grad()
def test_with_the_empty_anchor_the_wanted_guidance_is_zero():
    """λ = 0 and a = ∅: L = mean G² exactly."""
    s = subject()
    z, t = points()
    free, anchored = scores(s, z, t, told(s, NOTHING))
    assert torch.allclose(anchored, free, rtol=0, atol=1e-12)
    student = scores(s, z, t, told(s, CONCEPT))
    got = objective(student, (free, anchored), "student")
    assert float(got[0]) == pytest.approx(float((student[1] - student[0]).square().mean()), rel=1e-8)
    assert float(got[0]) > 1e-8


@torch.no_grad()
def test_with_the_concept_as_anchor_the_original_has_no_loss():
    s = subject()
    z, t = points()
    same = scores(s, z, t, told(s, CONCEPT))
    for reference in ("student", "detached", "teacher"):
        assert [float(v) for v in objective(same, scores(s, z, t, told(s, CONCEPT)), reference)] == [0.0, 0.0]


def plain(s, calls, method):
    """The loop with two models, on the points that the run met."""
    teacher, net = copy.deepcopy(s.denoiser).requires_grad_(False), copy.deepcopy(s.denoiser)
    params = {n: p for n, p in net.named_parameters() if ".attn2." in n}
    opt = torch.optim.Adam(params.values(), method.lr)
    empty = text(s, ())
    anchors = {
        tuple(c.flatten().tolist()): a for c, a in zip(text(s, *CONCEPT), text(s, *OTHER), strict=True)
    }
    losses = []
    for call in (c for c in calls if c.grad):
        z, t, c = (v.chunk(2)[1] for v in (call.z, call.t, call.cond))
        a, e = torch.stack([anchors[tuple(r.flatten().tolist())] for r in c]), empty.expand(len(c), -1, -1)
        free, before = raw(net, z, t, e), raw(teacher, z, t, e)
        start = {"student": free, "detached": free.detach(), "teacher": before}[method.reference]
        first = ((raw(net, z, t, c) - start - (raw(teacher, z, t, a) - before)) ** 2).mean()
        second = ((free - before) ** 2).mean()
        opt.zero_grad()
        (first + method.hold * second).backward()
        opt.step()
        losses.append([first.item(), second.item()])
    return net, losses


@pytest.mark.parametrize("reference", ["student", "detached", "teacher"])
@pytest.mark.parametrize("sampling", ["base", "student"])
def test_losses_and_weights_are_those_of_the_plain_loop_with_two_copies(sampling, reference, monkeypatch):
    """In float64; the two rows of one batch differ from two passes by rounding alone."""
    s = subject()
    before, calls, run = copy.deepcopy(s), watch(monkeypatch), Run()
    method = AllButOne(
        iterations=3, batch_size=2, lr=1e-3, hold=0.7, pool=5, sampling=sampling, reference=reference
    )
    forbid_copies(monkeypatch)
    method.unlearn(s, lent(CONCEPT, OTHER), run)
    net, losses = plain(before, calls, method)
    assert torch.tensor(losses)[-1, 0] > 0
    assert run.log["guidance_loss"] == pytest.approx([g for g, _ in losses], rel=1e-8)
    assert run.log["unconditional_loss"] == pytest.approx([u for _, u in losses], rel=1e-8, abs=1e-14)
    named = dict(net.named_parameters())
    assert all(torch.allclose(p, named[n], rtol=0, atol=1e-7) for n, p in s.denoiser.named_parameters())
    assert moved(before.denoiser, s.denoiser) == {n for n in named if ".attn2." in n}


def drift(hold):
    """How far the unconditional prediction and the guidance move, at points that no run has seen."""
    s = subject()
    z, t = points(seed=7)
    cond = told(s, CONCEPT)
    with torch.no_grad():
        before = scores(s, z, t, cond)
    AllButOne(hold=hold, iterations=40, lr=1e-3).unlearn(s, lent(CONCEPT, NOTHING), Run())
    with torch.no_grad():
        after = scores(s, z, t, cond)
    free = float((after[0] - before[0]).square().mean())
    return free, float((after[1] - after[0]).square().mean() / (before[1] - before[0]).square().mean())


def test_guidance_goes_where_it_should_and_lambda_holds_the_rest():
    free, left = drift(0.0)
    held, still_left = drift(100.0)
    assert left < 0.3 and still_left < 0.6
    assert held < free / 10


def test_it_says_that_it_is_a_reconstruction_wherever_it_is_listed():
    listing = methods.listing("all-but-one")
    assert "reconstructed" in listing.summary
    assert listing.reconstructed.startswith("RECONSTRUCTED: no code of the authors was found")


def test_bad_pairs_are_refused():
    with pytest.raises(BadData, match="every concept equals its anchor, so there is nothing to erase"):
        AllButOne().unlearn(subject(), lent(CONCEPT, CONCEPT), Run())
    with pytest.raises(BadData, match="2 prompts name what is erased and 1 what takes its place"):
        AllButOne().unlearn(subject(), lent(CONCEPT, [()]), Run())
