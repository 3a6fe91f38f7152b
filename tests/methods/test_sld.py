import copy
from dataclasses import replace

import pytest
import torch
from prompted import ids, lent, subject
from torch import nn

from unlearn.bench import _made, _notes
from unlearn.errors import BadData
from unlearn.methods.sld import SLD, SafetyGuide
from unlearn.ops.steering import Steering
from unlearn.patch import changed
from unlearn.runtime import Run
from unlearn.testing.tiny import tensors

CONCEPT = [(2,), (3, 4)]
PRESETS = list(SLD.presets)


def noises(seed, steps, shape=(3, 1, 4, 4)):
    """ε(∅), ε(c) and ε(p) of each step."""
    rng = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(3)) for _ in range(steps)
    ]


def literal(h, steps, g):
    """Guidance and ν of each step, element by element, as the paper writes it."""
    guidance, memory = [], []
    nu = torch.zeros_like(steps[0][0])
    for i, (free, told, named) in enumerate(steps):
        followed, after = torch.empty_like(free), torch.empty_like(free)
        for at in range(free.numel()):
            e_0, e_p, e_s, v = (float(t.flatten()[at]) for t in (free, told, named, nu))
            phi = 0.0 if e_p - e_s >= h.threshold else min(1.0, abs(e_p - e_s) * h.scale)
            gamma = phi * (e_s - e_0) + h.momentum * v
            after.view(-1)[at] = h.beta * v + (1 - h.beta) * gamma
            followed.view(-1)[at] = e_0 + g * (e_p - e_0 - (gamma if i >= h.warmup else 0.0))
        nu = after
        guidance.append(followed)
        memory.append(after)
    return guidance, memory


def ours(h, steps, g):
    """The same through the guide and the steering of a trajectory."""
    steering = Steering([SafetyGuide(torch.tensor([0]), h)], g)
    guidance, memory = [], []
    for i, (free, told, named) in enumerate(steps):
        guidance.append(steering(i, free, told, named))
        memory.append(steering.memory[0])
    return guidance, memory


SETTINGS = [
    {"warmup": 2, "scale": 0.7, "threshold": 0.3, "momentum": 0.4, "beta": 0.6},
    {"warmup": 0, "scale": 2.0, "threshold": 1.0, "momentum": 0.0, "beta": 0.0},
    {"warmup": 9, "scale": 1.0, "threshold": 0.0, "momentum": 0.9, "beta": 0.9},
]


@pytest.mark.parametrize("knobs", SETTINGS)
def test_guidance_and_memory_of_each_step_are_those_of_a_literal_loop(knobs):
    h, steps = SLD(**knobs), noises(0, 5)
    for got, wanted in zip(ours(h, steps, 2.5), literal(h, steps, 2.5), strict=True):
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("knobs", [*SETTINGS, *(SLD.presets[n].values for n in PRESETS)])
def test_guidance_and_memory_are_those_of_diffusers(knobs):
    """Bit for bit those of its deprecated pipeline, which the authors wrote."""
    from diffusers.pipelines.deprecated.stable_diffusion_safe.pipeline_stable_diffusion_safe import (
        StableDiffusionPipelineSafe,
    )

    h, steps, nu = SLD(**knobs), noises(1, 20), None
    guidance, memory = ours(h, steps, 7.5)
    for i, (free, told, named) in enumerate(steps):
        toward, nu = StableDiffusionPipelineSafe.perform_safety_guidance(
            None, True, nu, told - free, (told, free, named), i, h.scale, h.warmup, h.threshold, h.momentum, h.beta
        )  # fmt: skip
        assert torch.equal(memory[i], nu)
        assert torch.equal(guidance[i], free + 7.5 * toward)


def test_a_trajectory_is_the_plain_loop_over_the_same_network():
    """Three forward passes a step, DDIM written out; the schedule is float32, hence 1e-5."""
    s, h, n = subject(), SLD(**SETTINGS[0]), 2
    done = h.unlearn(subject(), lent(CONCEPT, ()), Run())
    told = torch.tensor([ids(5), ids(6)])
    got, t = done.trajectory(
        s.text(input_ids=told).last_hidden_state, 4, 2.5, torch.Generator().manual_seed(3)
    )
    z = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    kept = s.scheduler.alphas_cumprod.double()
    rows = [torch.tensor([p] * n) for p in (ids(), ids(*CONCEPT[0]))]
    nu = torch.zeros_like(z)
    for i, time in enumerate((750, 500, 250, 0)):
        at = torch.full((n,), time)
        with torch.no_grad():
            free, told_, named = (
                s.denoiser(z, at, encoder_hidden_states=s.text(input_ids=y).last_hidden_state).sample
                for y in (rows[0], told, rows[1])
            )
        (eps,), (nu,) = step(h, i, (free, told_, named), nu)
        a, b = kept[time], kept[time - 250] if time else torch.tensor(1.0)
        z = b.sqrt() * (z - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    assert int(t[0]) == 0
    torch.testing.assert_close(got, z, rtol=1e-5, atol=1e-5)


def step(h, i, eps, nu):
    """One step of `literal` from a given memory, with g = 2.5."""
    apart = eps[1] - eps[2]
    phi = torch.where(apart >= h.threshold, torch.zeros_like(apart), (apart.abs() * h.scale).clamp(max=1))
    gamma = phi * (eps[2] - eps[0]) + h.momentum * nu
    toward = eps[1] - eps[0] - (gamma if i >= h.warmup else 0)
    return (eps[0] + 2.5 * toward,), (h.beta * nu + (1 - h.beta) * gamma,)


def test_what_samples_follow_at_any_time_is_one_step_without_a_memory():
    """Of four steps at 750, 500, 250, 0, the nearest; the guide waits for the second one (δ = 1)."""
    s, h = subject(), SLD(**{**SETTINGS[0], "warmup": 1})
    done = replace(h.unlearn(subject(), lent(CONCEPT, ()), Run()), guidance=2.5)
    t, told = torch.tensor([999, 630, 620, 130, 3]), torch.tensor([ids(5)] * 5)
    z = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    cond = s.text(input_ids=told).last_hidden_state.detach().requires_grad_()
    found = done.guided(z, t, cond)
    rows = [torch.tensor([p] * 5) for p in (ids(), ids(*CONCEPT[0]))]
    with torch.no_grad():
        free, named = (
            s.denoiser(z, t, encoder_hidden_states=s.text(input_ids=y).last_hidden_state).sample for y in rows
        )
        at = s.denoiser(z, t, encoder_hidden_states=cond).sample
    for k, i in enumerate((0, 0, 1, 2, 3)):
        (wanted,), _ = step(h, i, (free[k], at[k], named[k]), torch.zeros_like(free[k]))
        torch.testing.assert_close(found[k], wanted, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found[2], free[2] + 2.5 * (at[2] - free[2]), atol=1e-4), "it steers"
    (grad,) = torch.autograd.grad(found.square().sum(), cond)
    assert (grad.flatten(1).norm(dim=1) > 0).all()


def test_two_guides_add_up_and_each_keeps_its_own_memory():
    one, two = SLD(**SETTINGS[0]), SLD(**SETTINGS[1])
    first, second = noises(0, 4), noises(5, 4)
    both = Steering([SafetyGuide(torch.tensor([0]), h) for h in (one, two)], 2.0)
    alone = [
        ours(one, first, 2.0)[0],
        ours(two, [(f, t, s[2]) for (f, t, _), s in zip(first, second, strict=True)], 2.0)[0],
    ]
    for i, ((free, told, p), (_, _, q)) in enumerate(zip(first, second, strict=True)):
        wanted = alone[0][i] + alone[1][i] - (free + 2.0 * (told - free))
        torch.testing.assert_close(both(i, free, told, p, q), wanted, rtol=1e-12, atol=1e-12)


def test_without_a_guide_guidance_is_classifier_free():
    free, told, _ = noises(0, 1)[0]
    assert torch.equal(Steering([], 3.0)(0, free, told), free + 3.0 * (told - free))


def test_no_weight_changes_and_the_prompt_is_all_that_is_added():
    s = subject()
    done = SLD().unlearn(s.clone(), lent(CONCEPT, ()), Run())
    added = changed(s.module.state_dict(), done.module.state_dict())
    assert list(added) == ["guides.0.prompt"] and added["guides.0.prompt"].tolist() == ids(2)
    assert dict(done.module.named_parameters()).keys() == dict(s.module.named_parameters()).keys()


def drawn(s):
    return s.trajectory(s.null(2), 4, 2.0, torch.Generator().manual_seed(0))[0]


def test_what_is_restored_draws_the_same_also_after_another_concept():
    """A patch over the subject that one concept was erased from holds the second prompt alone."""
    s, method = subject(), SLD(scale=3.0)
    one = method.unlearn(s.clone(), lent([(2,)], ()), Run())
    two = method.unlearn(one.clone(), lent([(7,)], ()), Run())
    images = [drawn(x) for x in (s, one, two)]
    assert not any(torch.equal(a, b) for a, b in ((images[0], images[1]), (images[1], images[2])))
    for base, done, image in ((s, one, images[1]), (one, two, images[2])):
        state = changed(base.module.state_dict(), done.module.state_dict())
        again = method.restore(base.clone(), state)
        assert _made(again) == _made(done) and torch.equal(drawn(again), image)
        assert torch.equal(drawn(done.clone()), image)


def test_the_report_says_that_it_acts_beside_the_weights():
    s = subject()
    done = SLD().unlearn(s.clone(), lent(CONCEPT, ()), Run())
    (note,) = _notes(s, done)
    assert note.startswith("Not one weight of the original changed; what was added")
    (idle,) = _notes(s, s.clone())
    assert idle.startswith("Not one weight or buffer changed: the method did nothing")
    moved = s.clone()
    with torch.no_grad():
        next(moved.module.parameters()).add_(1)
    assert _notes(s, moved) == []


def test_clones_own_their_guides():
    done = SLD().unlearn(subject(), lent(CONCEPT, ()), Run())
    twin = copy.deepcopy(tensors(done))
    done.clone().module["guides"][0].prompt.zero_()
    assert all(torch.equal(t, twin[n]) for n, t in tensors(done).items())
    assert isinstance(done.module["guides"], nn.ModuleList)


def test_no_prompt_is_refused():
    with pytest.raises(BadData, match="no prompt names the concept"):
        SLD().unlearn(subject(), lent((), ()), Run())
