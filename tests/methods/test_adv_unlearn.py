import copy

import pytest
import torch
from prompted import ids, lent, subject
from watched import forbid_copies

from unlearn.errors import BadData
from unlearn.methods import adv_unlearn
from unlearn.methods.adv_unlearn import AdvUnlearn, said
from unlearn.ops.remembered import Remembered, remembered
from unlearn.runtime import Run

CONCEPT, KEPT = [(2,), (5, 2)], [(6,), (7, 8), (9,)]
SMALL = {"iterations": 4, "warmup": 2, "attack_steps": 3, "batch_size": 2, "keep_batch_size": 3, "pool": 6}
"""Two plain iterations and two behind attacks."""


def split():
    return lent(CONCEPT, (), KEPT)


def learn(s, run=None, **knobs):
    return AdvUnlearn(**{**SMALL, **knobs}).unlearn(s, split(), run or Run())


def plain(s, z, t, y, delta=None):
    """ε for prompts y, or for δ between their begin token and the rest, by the text encoder's own forward pass."""
    text = s.text
    if delta is None:
        return s.denoiser(z, t, encoder_hidden_states=text(input_ids=y).last_hidden_state).sample
    taken_ids = torch.cat([y[:, :1].expand(-1, 1 + len(delta)), y[:, 1 : -1 - len(delta)], y[:, -1:]], 1)
    table = text.get_input_embeddings()
    hook = table.register_forward_hook(lambda _m, _i, out: put(out, delta))
    states = text(input_ids=taken_ids).last_hidden_state
    hook.remove()
    return s.denoiser(z, t, encoder_hidden_states=states).sample


def put(out, delta):
    return torch.cat([out[:, :1], delta.expand(len(out), -1, -1), out[:, 1 + len(delta) :]], 1)


class Notebook:
    """Writes down which latents each prediction of a run was made at, with a copy of them all."""

    def __init__(self, monkeypatch):
        self.made, self.calls = [], []
        make, say = adv_unlearn.remembered, adv_unlearn.said

        def remember(*args):
            self.made.append(make(*args))
            return self.made[-1]

        def speak(s, points, delta):
            self.calls.append((points, delta.detach().clone()))
            return say(s, points, delta)

        monkeypatch.setattr(adv_unlearn, "remembered", remember)
        monkeypatch.setattr(adv_unlearn, "said", speak)


def two_copies(s, calls, h):
    """The plain loop with a frozen model beside the one in training, over the points that a run met."""
    net, losses, deltas, todo = copy.deepcopy(s), [], [], iter(calls)
    params = [p.requires_grad_() for n, p in net.text.named_parameters() if "embedding" not in n]
    opt, delta = torch.optim.Adam(params, lr=h.lr), None
    for i in range(h.iterations):
        if i >= h.warmup:
            points, start = next(todo)
            delta = (start if delta is None else delta).clone().requires_grad_()
            inner = torch.optim.Adam([delta], lr=h.attack_lr)
            for k in range(h.attack_steps):
                points = points if k == 0 else next(todo)[0]
                goal = plain(s, points.z, points.t, points.y).detach()
                inner.zero_grad()
                ((plain(net, points.z, points.t, points.y, delta) - goal) ** 2).mean().backward()
                inner.step()
            delta = delta.detach()
            deltas.append(delta)
        (f, _), (r, _) = next(todo), next(todo)
        with torch.no_grad():
            e_0 = plain(s, f.z, f.t, torch.tensor([ids()] * len(f)))
            e_p, e_r = plain(s, f.z, f.t, f.y), plain(s, r.z, r.t, r.y)
        erasing = ((plain(net, f.z, f.t, f.y, delta) - (e_0 - h.eta * (e_p - e_0))) ** 2).mean()
        keeping = ((plain(net, r.z, r.t, r.y) - e_r) ** 2).mean()
        opt.zero_grad()
        (erasing + h.keep * keeping).backward()
        losses.append((erasing.item(), keeping.item()))
        opt.step()
    return losses, deltas, net


@pytest.mark.parametrize("prefix", [1, 2])
def test_attacks_losses_and_weights_are_those_of_the_plain_loop_with_two_copies(prefix, monkeypatch):
    """In float64, at the latents that the run met; prefix tokens and weights agree to what Adam's quotients leave."""
    h = AdvUnlearn(**SMALL, prefix=prefix, eta=1.5, keep=0.7, lr=1e-3)
    s, run, book = subject(), Run(), Notebook(monkeypatch)
    before = copy.deepcopy(s)
    h.unlearn(s, split(), run)
    losses, deltas, net = two_copies(before, book.calls, h)
    assert run.log["erasing"] == pytest.approx([a for a, _ in losses], rel=1e-8)
    assert run.log["keeping"] == pytest.approx([b for _, b in losses], rel=1e-8, abs=1e-20)
    assert len(deltas) == 2 and all(len(d) == prefix for d in deltas)
    used = [d for p, d in book.calls if len(d)]
    torch.testing.assert_close(used[-1], deltas[-1], rtol=1e-6, atol=1e-9)
    for (name, p), q in zip(s.module.named_parameters(), net.module.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-7), name


def test_only_the_layers_of_the_text_encoder_change_and_all_flags_are_put_back():
    s = subject()
    before = {n: p.detach().clone() for n, p in s.module.named_parameters()}
    flags = {n: p.requires_grad for n, p in s.module.named_parameters()}
    learn(s)
    moved = {n for n, p in s.module.named_parameters() if not torch.equal(p, before[n])}
    layers = {n for n in before if n.startswith("text_encoder.") and "embedding" not in n}
    without_gradient = {
        n for n in layers if n.endswith("k_proj.bias")
    }  # softmax does not see it, but for rounding
    assert layers - without_gradient <= moved <= layers
    assert {n: p.requires_grad for n, p in s.module.named_parameters()} == flags
    assert all(p.grad is None for p in s.module.parameters())


def test_an_attack_brings_the_original_predictions_closer(monkeypatch):
    """On the model after plain erasure: the mean error over all latents falls from the start of δ to its end."""
    s = learn(subject(), iterations=30, warmup=30, lr=3e-3)
    points = fixed(subject(), 12)
    h = AdvUnlearn(attack_steps=40, attack_lr=0.05, init="random")
    start = h.attack(s, iter([]), torch.zeros(0, 16), Run(3))
    found = h.attack(s, iter([points] * 40), torch.zeros(0, 16), Run(3))

    def error(delta):
        with torch.no_grad():
            return float((said(s, points, delta) - points.told).square().mean())

    assert error(found) < 0.9 * error(start)


def fixed(s, n):
    return remembered(s, split().concept, n, 3.0, Run(1))


def test_the_last_attack_goes_on_or_starts_anew():
    s, points = subject(), fixed(subject(), 2)
    last = torch.full((1, 16), 0.5, dtype=torch.float64)
    one = AdvUnlearn(attack_steps=1, attack_lr=1e-3)
    near = one.attack(s, iter([points]), last, Run(0))
    assert ((near - last).abs() <= 1.001e-3).all() and not torch.equal(near, last)
    anew = one.model_copy(update={"init": "random"}).attack(s, iter([points]), last, Run(0))
    table = s.embeddings().detach()
    assert float((anew - table).abs().amax(1).min()) <= 1.001e-3


def test_without_tokens_of_its_own_a_prompt_says_what_it_said():
    s, points = subject(), fixed(subject(), 5)
    with torch.no_grad():
        got = said(s, points, torch.zeros(0, 16, dtype=torch.float64))
    torch.testing.assert_close(got, points.told, rtol=1e-9, atol=1e-12)


def test_what_is_remembered_is_what_was_predicted():
    s, points = subject(), fixed(subject(), 7)
    assert isinstance(points, Remembered) and len(points) == 7
    with torch.no_grad():
        for p in points.split(3):
            empty = torch.tensor([ids()] * len(p))
            torch.testing.assert_close(p.free, plain(s, p.z, p.t, empty), rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(p.told, plain(s, p.z, p.t, p.y), rtol=1e-9, atol=1e-12)
    assert {tuple(y) for y in points.y.tolist()} <= {tuple(ids(*c)) for c in CONCEPT}
    assert len(set(points.t.tolist())) > 1


def test_training_turns_the_concept_away_and_what_must_stay_is_held_by_its_weight():
    left, off = zip(*(after_training(keep) for keep in (0.0, 10.0)), strict=True)
    assert left[0] < 0 and left[1] < 0.8
    assert off[1] < off[0] / 2


def after_training(keep):
    """Share of the concept's guidance that is left, and the error of what must stay in units of its guidance."""
    s = subject()
    f, r = fixed(s, 12), remembered(s, split().preserve, 12, 3.0, Run(2))
    learn(s, iterations=40, warmup=35, lr=2e-3, pool=24, keep=keep)
    nothing = torch.zeros(0, 16, dtype=torch.float64)
    with torch.no_grad():
        d = f.told - f.free
        left = float(((said(s, f, nothing) - f.free) * d).sum() / d.square().sum())
        off = float((said(s, r, nothing) - r.told).square().sum() / (r.told - r.free).square().sum())
    return left, off


def test_no_second_model_is_made(monkeypatch):
    s = subject()
    forbid_copies(monkeypatch, deep=True)
    learn(s)


@pytest.mark.parametrize(("concept", "kept"), [((), KEPT), (CONCEPT, ())])
def test_empty_sets_are_refused(concept, kept):
    with pytest.raises(BadData, match="a set of prompts is empty"):
        AdvUnlearn(**SMALL).unlearn(subject(), lent(concept, (), kept), Run())
