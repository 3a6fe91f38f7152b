import copy

import pytest
import torch
from prompted import lent, subject, text
from watched import forbid_copies, moved, raw, watch

from unlearn.errors import BadData
from unlearn.methods.concept_ablation import ConceptAblation
from unlearn.runtime import Run
from unlearn.subjects.text_to_image import TextToImage

CONCEPT, ANCHOR = [(2,), (3, 4)], [(5,), (6, 7)]


def spied(monkeypatch):
    """What is noised, with its times and noise, and what was drawn of which prompts."""
    noised, drawn = [], []
    real, trajectory = TextToImage.noised, TextToImage.trajectory

    def noise(self, x, t, e):
        noised.append((x, t, e))
        return real(self, x, t, e)

    def draw(self, cond, until, guidance, rng):
        z, t = trajectory(self, cond, until, guidance, rng)
        drawn.append((cond, until, guidance, z))
        return z, t

    monkeypatch.setattr(TextToImage, "noised", noise)
    monkeypatch.setattr(TextToImage, "trajectory", draw)
    return noised, drawn


def pair(s):
    """The anchor's states for those of each concept."""
    return {tuple(c.flatten().tolist()): a for c, a in zip(text(s, *CONCEPT), text(s, *ANCHOR), strict=True)}


def plain(s, calls, noised, method):
    """The loop on one model, on the points that the run met; both predictions by separate passes."""
    net = copy.deepcopy(s.denoiser)
    params = {n: p for n, p in net.named_parameters() if "attn2.to_k" in n or "attn2.to_v" in n}
    opt, anchors, losses = torch.optim.AdamW(params.values(), method.lr), pair(s), []
    for call, (x, t, noise) in zip([c for c in calls[1::2]], noised, strict=True):
        z = s.scheduler.add_noise(x, noise, t)
        c = call.cond
        a = torch.stack([anchors[tuple(r.flatten().tolist())] for r in c])
        held = raw(net, z, t, a)
        goal = held.detach() if method.target == "anchor" else noise
        loss = ((raw(net, z, t, c) - goal) ** 2).mean() + method.prior * ((held - noise) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return net, losses


@pytest.mark.parametrize("knobs", [{}, {"prior": 0.5}, {"target": "noise"}])
def test_losses_and_weights_are_those_of_the_plain_loop(knobs, monkeypatch):
    """With a target from the frozen original, or one with a gradient, both would differ from the second step on."""
    s, run = subject(), Run()
    before, calls = copy.deepcopy(s), watch(monkeypatch)
    noised, _ = spied(monkeypatch)
    forbid_copies(monkeypatch)
    method = ConceptAblation(train="strict", iterations=4, batch_size=3, drawings=5, lr=1e-3, **knobs)
    method.unlearn(s, lent(CONCEPT, ANCHOR), run)
    net, losses = plain(before, calls, noised, method)
    assert run.log["loss"] == pytest.approx(losses, rel=1e-9)
    named = dict(net.named_parameters())
    assert all(torch.allclose(p, named[n], rtol=0, atol=1e-8) for n, p in s.denoiser.named_parameters())
    assert moved(before.denoiser, s.denoiser) == {n for n in named if "attn2.to_k" in n or "attn2.to_v" in n}


def test_it_trains_on_finished_drawings_of_the_anchors_by_the_original(monkeypatch):
    s = subject()
    original = copy.deepcopy(s)
    noised, drawn = spied(monkeypatch)
    ConceptAblation(iterations=3, batch_size=4, drawings=6, guidance=1.5).unlearn(
        s, lent(CONCEPT, ANCHOR), Run()
    )
    assert [(until, guidance) for _, until, guidance, _ in drawn] == [(4, 1.5)]
    told, _, _, made = drawn[0]
    anchors = text(original, *ANCHOR)
    assert len(made) == 6 and all(any(torch.equal(c, a) for a in anchors) for c in told)
    used = torch.cat([x for x, _, _ in noised]).flatten(1)
    counts = [int((used == row).all(1).sum()) for row in made.flatten(1)]
    assert counts == [2] * 6


def test_each_drawing_goes_with_the_concept_of_its_anchor(monkeypatch):
    s = subject()
    anchors = pair(s)
    calls = watch(monkeypatch)
    noised, drawn = spied(monkeypatch)
    ConceptAblation(iterations=2, batch_size=5, drawings=10).unlearn(s, lent(CONCEPT, ANCHOR), Run())
    told, _, _, made = drawn[0]
    of = {tuple(x.flatten().tolist()): c for x, c in zip(made, told, strict=True)}
    for call, (x, _, _) in zip(calls[1::2], noised, strict=True):
        for c, drawing in zip(call.cond, x, strict=True):
            assert torch.equal(anchors[tuple(c.flatten().tolist())], of[tuple(drawing.flatten().tolist())])


def test_times_are_those_of_training(monkeypatch):
    noised, _ = spied(monkeypatch)
    ConceptAblation(iterations=40, batch_size=8, drawings=2, lr=1e-6).unlearn(
        subject(), lent(CONCEPT, ANCHOR), Run()
    )
    t = torch.cat([t for _, t, _ in noised])
    assert t.min() < 50 and t.max() >= 950 and abs(float(t.double().mean()) - 499.5) < 5 * 288.7 / 320**0.5


def test_the_concept_is_read_as_its_anchor():
    """At points that the run has not seen, the two predictions come together."""
    s = subject()
    z, t = (
        torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(9)).double(),
        torch.tensor([100, 800]),
    )

    def apart():
        with torch.no_grad():
            gap = raw(s.denoiser, z, t, text(s, *CONCEPT)) - raw(s.denoiser, z, t, text(s, *ANCHOR))
        return float(gap.square().mean())

    first = apart()
    ConceptAblation(lr=3e-3, iterations=150).unlearn(s, lent(CONCEPT, ANCHOR), Run())
    assert first > 1e-8 and apart() < first / 3


def test_a_concept_that_equals_its_anchor_is_refused():
    with pytest.raises(BadData, match="every concept equals its anchor"):
        ConceptAblation().unlearn(subject(), lent(CONCEPT, CONCEPT), Run())


def test_the_paper_preset():
    """Two devices with four images each: 2e-6 times eight."""
    method = ConceptAblation.preset("paper")
    assert (method.lr, method.batch_size, method.iterations, method.train) == (8 * 2e-6, 8, 100, "strict")
