import pytest
import torch
from one_weight import OneWeight, rows, split
from small_net import classifier, images
from torch.nn.functional import cross_entropy

from unlearn.data import Counted, Resident, Split
from unlearn.errors import Mismatch
from unlearn.methods.salun import SalUn, shrink
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.testing.tiny import specimen


def saliency(subject, data, size):
    """|Σ_b ∇ mean_b ℓ| by plain torch."""
    params = list(subject.module.parameters())
    total = [torch.zeros_like(p) for p in params]
    for rows_ in torch.arange(len(data)).split(size):
        loss = cross_entropy(subject.module(data.source.x[rows_]), data.source.y[rows_])
        total = [t + g for t, g in zip(total, torch.autograd.grad(loss, params), strict=True)]
    return torch.cat([t.abs().flatten() for t in total])


def flat(subject):
    return torch.cat([p.detach().flatten() for p in subject.module.parameters()])


@pytest.mark.parametrize("rho", [0.1, 0.5, 1.0])
def test_only_the_most_salient_weights_move_and_the_rest_keep_their_bits(rho):
    subject, forget, retain = classifier(), images(10, 1), images(30)
    score, start = saliency(subject, forget, 4), flat(subject)
    rank = score.argsort(descending=True).argsort()
    moves = rank < int(rho * len(score))
    method = SalUn(rho=rho, batch_size=4, epochs=3, lr=0.05, momentum=0.9, weight_decay=0.1)
    end = flat(method.unlearn(subject, split(forget, retain), Run(2)))
    assert torch.equal(end[~moves], start[~moves])
    assert (end[moves] != start[moves]).all()


def test_two_passes_with_a_mask_by_hand():
    """The saliency is (1, 3), so ρ = 1/2 lets the second weight move: -0.1 (2 * 3 - 1)."""
    method = SalUn(rho=0.5, lr=0.1, epochs=1, momentum=0.0, weight_decay=0.0)
    done = method.unlearn(OneWeight(0.0, 0.0), split(rows((1.0, 3.0)), rows((2.0, -1.0))), Run())
    assert done.w == pytest.approx([0.0, -0.5], abs=1e-12)


def test_a_joint_step_by_hand():
    """α = 1/2: one step of -0.1 (2 * 3 - 0.5 * 1) for the weight that may move; Adam's first step is its size."""
    values = {"rho": 0.5, "lr": 0.1, "epochs": 1, "weight_decay": 0.0, "order": "joint", "alpha": 0.5}
    data = split(rows((1.0, 3.0)), rows((2.0, -1.0)))
    done = SalUn(momentum=0.0, **values).unlearn(OneWeight(0.0, 0.0), data, Run())
    assert done.w == pytest.approx([0.0, -0.55], abs=1e-12)
    done = SalUn(optimiser="adam", **values).unlearn(OneWeight(0.0, 0.0), data, Run())
    assert done.w == pytest.approx([0.0, -0.1], abs=1e-6)


def test_shrink_by_hand():
    """Changes 1, -2, 3, -4; half of four is two, τ = 2, and 0, 0, 1, -2 remain."""
    start = [torch.tensor([10.0, 10.0]), torch.tensor([10.0, 10.0])]
    params = [torch.nn.Parameter(torch.tensor([11.0, 8.0])), torch.nn.Parameter(torch.tensor([13.0, 6.0]))]
    shrink(params, start, 0.5)
    assert torch.cat(params).tolist() == [10.0, 10.0, 11.0, 8.0]


def test_the_soft_form_by_hand():
    """T = 2 steps, ρ = 1. Step 0: Δ = -(2, 6), τ = 6, all is undone. Step 1: Δ = -(2, -1), τ = 1: (-1, 0)."""
    method = SalUn(form="soft", rho=1.0, lr=1.0, epochs=1, momentum=0.0, weight_decay=0.0)
    done = method.unlearn(OneWeight(5.0, 5.0), split(rows((1.0, 3.0)), rows((2.0, -1.0))), Run())
    assert done.w == [4.0, 5.0]


@pytest.mark.parametrize(("n_f", "n_r"), [(3, 50), (30, 31), (40, 3), (1, 1)])
def test_mixed_batches_use_every_example_once_in_an_epoch(n_f, n_r):
    forget, retain = Counted(rows(*torch.ones(n_f).tolist())), Counted(rows(*torch.ones(n_r).tolist()))
    SalUn(form="soft", order="mixed", epochs=2, batch_size=8).unlearn(
        OneWeight(1.0), split(forget, retain), Run()
    )
    assert (forget.read, retain.read) == (2 * n_f, 2 * n_r)


def test_the_label_is_wrong_unless_the_quirk_is_asked_for():
    """Of the true class's loss 0 and the wrong ones' loss 100, the share of zeros is 0 or 1/3."""
    subject, data = classifier(), images(3000)
    logits = 100.0 * torch.nn.functional.one_hot(data.source.y, 3)
    subject.module = torch.nn.Identity()
    batch = next(data.batches(3000))
    batch = type(batch)(logits, batch.y, batch.index)
    zeros = {
        quirk: int((SalUn(wrong_only=not quirk)._relabeled(subject, batch, Run()) < 1).sum())
        for quirk in (False, True)
    }
    assert zeros[False] == 0
    assert abs(zeros[True] - 1000) < 5 * (3000 * 2 / 9) ** 0.5


def diffusion(kind):
    """A tiny diffusion model in float64, and ten examples to forget and to retain."""
    s = specimen(kind).copy().subject
    s.module.double()
    x = torch.randn(10, *s.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y = torch.tensor([[0, 2, 1, 1, 1, 1, 1, 1]] * 10) if kind == "unet" else torch.arange(10) % 3
    forget, retain = (Resident(Arrays(x[k::2], y[k::2])) for k in (0, 1))
    return s, Split(forget, retain, None, None, None)


@pytest.mark.parametrize("kind", ["unet", "ddpm"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_the_mask_of_the_guided_prediction_is_that_of_the_authors_loop(kind, clip):
    """Signed gradients of the summed error of (1 + w) ε(c) − w ε(∅), each cut, added up; their largest half moves."""
    s, data = diffusion(kind)
    plain, w = diffusion(kind)[0], 2.0
    method = SalUn(
        order="joint", optimiser="adam", epochs=1, lr=1e-3, batch_size=2, weight_decay=0.0, saliency="guided",
        guidance=1 + w, clip=clip,
    )  # fmt: skip
    run, names = Run(7), [n for n, p in plain.module.named_parameters() if p.requires_grad]
    params = [plain.module.get_parameter(n) for n in names]
    total = [torch.zeros_like(p) for p in params]
    plain.module.eval()
    for batch in data.forget.batches(2):
        t = plain.times(len(batch), run.rng)
        noise = torch.randn(batch.x.shape, generator=run.rng).double()
        z, _ = plain.noised(batch.x, t, noise)
        told, free = plain.predict(z, t, plain.encode(batch)), plain.predict(z, t, plain.null(len(batch)))
        error = ((noise - ((1 + w) * told - w * free)) ** 2).sum((1, 2, 3)).mean()
        grads = torch.autograd.grad(error, params, allow_unused=True, materialize_grads=True)
        norm = float(torch.stack([g.norm() for g in grads]).norm())
        for at, g in zip(total, grads, strict=True):
            at += g * min(1.0, clip / norm) if clip else g
    sizes = torch.cat([g.abs().flatten() for g in total])
    limit = sizes.sort(descending=True).values[len(sizes) // 2 - 1]
    before = {n: p.detach().clone() for n, p in s.module.named_parameters()}
    method.unlearn(s, data, Run(7))
    moved = {n: p != before[n] for n, p in s.module.named_parameters()}
    assert not any(m.any() for n, m in moved.items() if n not in names)
    for name, g in zip(names, total, strict=True):
        assert not moved[name][g.abs() < limit * (1 - 1e-6)].any()
    assert len(sizes) // 4 < sum(int(m.sum()) for m in moved.values()) <= len(sizes) // 2 + 1


def test_a_guided_mask_needs_a_diffusion_model():
    with pytest.raises(Mismatch, match="a OneWeight is none; use saliency='loss'"):
        SalUn(saliency="guided").unlearn(OneWeight(1.0), split(rows(1.0), rows(2.0)), Run())


def test_presets_for_diffusion_take_the_mask_as_the_authors_do():
    ddpm, latent = SalUn.preset("ddpm"), SalUn.preset("diffusion")
    assert (ddpm.saliency, ddpm.guidance, ddpm.clip) == ("guided", 3.0, 1.0)
    assert (latent.saliency, latent.guidance, latent.clip) == ("guided", 8.5, 0.0)
