import copy

import pytest
import torch
from prompted import ids, lent, subject
from watched import forbid_copies

from unlearn.errors import BadData
from unlearn.methods import slug
from unlearn.methods.slug import SLUG
from unlearn.ops.remembered import remembered
from unlearn.runtime import Run

CONCEPT, KEPT = [(2,), (5, 2)], [(6,), (7, 8), (9,)]
SMALL = {"latents": 20, "tries": 6}
WEIGHTS = [
    f"encoder.layers.0.{n}.weight"
    for n in (
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.q_proj",
        "self_attn.out_proj",
        "mlp.fc1",
        "mlp.fc2",
    )
]


def split():
    return lent(CONCEPT, (), KEPT)


@pytest.fixture
def met(monkeypatch):
    """The latents that a run met, of the concept and of what must stay, and all layers that it looked at."""
    found = {"points": [], "layers": []}
    make, front = slug.remembered, slug.pareto

    def remember(*args):
        found["points"].append(make(*args))
        return found["points"][-1]

    def choose(layers):
        found["layers"] += [(m.name, m.importance, m.alignment) for m in layers]
        found["front"] = [m.name for m in front(layers)]
        return front(layers)

    monkeypatch.setattr(slug, "remembered", remember)
    monkeypatch.setattr(slug, "pareto", choose)
    return found


def affinity(s, p):
    """a of every point, one at a time and as a sum over its elements."""
    found = []
    for i in range(len(p)):
        z, t = p.z[i : i + 1], p.t[i : i + 1]
        said = s.denoiser(
            z, t, encoder_hidden_states=s.text(input_ids=p.y[i : i + 1]).last_hidden_state
        ).sample
        d = p.told[i] - p.free[i]
        found.append(((said[0] - p.free[i]) * d).sum() / (d * d).sum())
    return torch.stack(found)


def slopes(s, p):
    """Gradient of the mean of 1 − a for every candidate, by autograd over all points at once."""
    free = copy.deepcopy(s)
    named = {n: q.requires_grad_() for n, q in free.text.named_parameters() if n in WEIGHTS}
    found = torch.autograd.grad((1 - affinity(free, p)).mean(), list(named.values()))
    return dict(zip(named, found, strict=True))


def test_importance_alignment_and_front_are_those_of_gradients_taken_one_by_one(met):
    """Sixteen points and four make two batches of unequal size, which must weigh as points."""
    s = subject()
    before = copy.deepcopy(s)
    SLUG(**SMALL).unlearn(s, split(), Run())
    f, r = (slopes(before, p) for p in met["points"])
    theta = dict(before.text.named_parameters())
    assert [name for name, _, _ in met["layers"]] == WEIGHTS
    known = {}
    for name, *seen in met["layers"]:
        gf, gr = f[name].flatten(), r[name].flatten()
        known[name] = float(gf.norm() / theta[name].norm()), float((gf @ gr).abs() / gf.norm() / gr.norm())
        assert seen == pytest.approx(known[name], rel=1e-8)
    front = [n for n, (i, a) in known.items() if not any(j > i and b < a for j, b in known.values())]
    assert met["front"] == front


def test_one_layer_moves_along_the_forget_gradient_by_the_step_that_is_best(met):
    s, run = subject(), Run()
    before = copy.deepcopy(s)
    SLUG(**SMALL, left=0.5).unlearn(s, split(), run)
    moved = [
        n for n, p in s.text.named_parameters() if not torch.equal(p, dict(before.text.named_parameters())[n])
    ]
    (name,) = moved
    g, start = slopes(before, met["points"][0])[name], dict(before.text.named_parameters())[name]
    *tried, chosen = zip(run.log["size"], run.log["left"], run.log["harm"], strict=True)
    torch.testing.assert_close(
        dict(s.text.named_parameters())[name], start + chosen[0] * g, rtol=1e-8, atol=1e-10
    )
    reached = [t for t in tried if t[1] <= 0.5]
    assert reached and chosen in tried and chosen[2] == min(t[2] for t in reached)


def test_the_effect_is_that_the_prompt_of_the_concept_leads_elsewhere(met):
    """The sign is defined by what it does: the forget loss rises, a falls to what was asked for."""
    s, run = subject(), Run()
    SLUG(**SMALL, left=0.5).unlearn(s, split(), run)
    f, r = met["points"]
    with torch.no_grad():
        left = affinity(s, f).mean()
        assert affinity(subject(), f).mean() == pytest.approx(1, rel=1e-9)
    assert float(left) == pytest.approx(run.log["left"][-1], rel=1e-8) and left <= 0.5
    harm = [harm_of(s, r, i) for i in range(len(r))]
    assert run.log["harm"][-1] == pytest.approx(sum(harm) / len(harm), rel=1e-8)


@torch.no_grad()
def harm_of(s, p, i):
    """‖ε(c) − ε*(c)‖² / ‖d‖² of one point."""
    states = s.text(input_ids=p.y[i : i + 1]).last_hidden_state
    off = s.denoiser(p.z[i : i + 1], p.t[i : i + 1], encoder_hidden_states=states).sample[0] - p.told[i]
    return float(off.square().sum() / (p.told[i] - p.free[i]).square().sum())


def test_where_no_step_forgets_the_one_that_leaves_least_is_taken():
    run = Run()
    SLUG(latents=8, tries=1, first=1e-3, left=-2.0).unlearn(subject(), split(), run)
    *tried, chosen = run.log["left"]
    assert chosen == min(tried) > -2.0


def test_everything_else_keeps_its_bits_and_flags():
    s = subject()
    before, flags = copy.deepcopy(s.module.state_dict()), [p.requires_grad for p in s.module.parameters()]
    SLUG(**SMALL).unlearn(s, split(), Run())
    moved = [n for n, t in s.module.state_dict().items() if not torch.equal(t, before[n])]
    assert len(moved) == 1 and moved[0].removeprefix("text_encoder.") in WEIGHTS
    assert [p.requires_grad for p in s.module.parameters()] == flags
    assert all(p.grad is None for p in s.module.parameters())


def test_no_second_model_is_made(monkeypatch):
    s = subject()
    forbid_copies(monkeypatch, deep=True)
    SLUG(latents=4, tries=2).unlearn(s, split(), Run())


def test_latents_are_on_the_way_to_their_prompts():
    points = remembered(subject(), split().preserve, 24, 3.0, Run())
    assert {tuple(y) for y in points.y.tolist()} == {tuple(ids(*c)) for c in KEPT}
    assert len(points.t.unique()) == 4  # every step of the trajectory


@pytest.mark.parametrize(("concept", "kept"), [((), KEPT), (CONCEPT, ())])
def test_empty_sets_are_refused(concept, kept):
    with pytest.raises(BadData, match="a set of prompts is empty"):
        SLUG().unlearn(subject(), lent(concept, (), kept), Run())
