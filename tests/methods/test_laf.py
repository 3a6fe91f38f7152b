"""LAF: both losses and their gradients for given features, the autoencoder's loss, one step, the head's repair."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from one_weight import split
from scipy.special import logsumexp
from small_net import classifier, images, state
from torch import nn
from torch.distributions import Normal, kl_divergence

from unlearn.data import Counted, Resident
from unlearn.methods import laf
from unlearn.methods.laf import LAF, alignment, head_of, surprise
from unlearn.ops.vae import FeatureVAE, fit_vae, vae_loss
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subject import mode
from unlearn.subjects.classifier import Classifier

BRIEF = {"epochs": 1, "vae_epochs": 1, "batch_size": 8}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numeric(f, x, h=1e-6):
    """The gradient of a scalar function by central differences."""
    found = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        found[i] = (f(up) - f(down)) / (2 * h)
    return found


def m_of(e, back):
    return np.array(
        [sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for x, y in zip(e, back, strict=True)]
    )


def test_the_extractor_loss_and_its_gradient_by_loops():
    e_r, b_r, e_f, b_f = random(4, 3, 5).unbind()
    e_f.requires_grad_()
    loss = surprise(e_r, b_r) - surprise(e_f, b_f)
    (gradient,) = torch.autograd.grad(loss, e_f)

    def by_loops(forget):
        sums = [
            sum(np.exp(m / (m + 1)) for m in m_of(e, b.numpy()))
            for e, b in ((e_r.numpy(), b_r), (forget, b_f))
        ]
        return sums[0] - sums[1]

    assert loss.item() == pytest.approx(by_loops(e_f.detach().numpy()), rel=1e-12)
    np.testing.assert_allclose(gradient, numeric(by_loops, e_f.detach().numpy()), atol=1e-8)


def test_the_alignment_loss_and_its_gradient_by_loops():
    s_r, s_f, t = random(6).abs(), random(4, seed=1).abs().requires_grad_(), 0.7
    loss = alignment(s_r, s_f, t)
    (gradient,) = torch.autograd.grad(loss, s_f)

    def by_loops(forget):
        return sum(s - np.log(np.exp(forget / t).sum()) for s in s_r.numpy())

    assert loss.item() == pytest.approx(by_loops(s_f.detach().numpy()), rel=1e-12)
    np.testing.assert_allclose(gradient, numeric(by_loops, s_f.detach().numpy()), atol=1e-8)
    assert alignment(s_r, s_f, 1e-3).item() == pytest.approx(
        s_r.sum().item() - 6 * logsumexp(s_f.detach().numpy() / 1e-3), rel=1e-9
    )


def test_the_autoencoders_loss_has_the_divergence_of_torch():
    e, back = random(2, 5, 7).unbind()
    mean, log_variance = random(2, 5, 3, seed=1).unbind()
    prior, posterior = Normal(0.0, 1.0), Normal(mean, (log_variance / 2).exp())
    wanted = ((back - e) ** 2).sum() / 5 + 0.25 * kl_divergence(posterior, prior).sum() / 5
    torch.testing.assert_close(vae_loss(e, back, mean, log_variance, 0.25), wanted)


def test_an_autoencoder_draws_around_its_mean():
    """A decoder that returns the draw itself shows its mean and deviation."""
    vae = FeatureVAE(2, 2)
    vae.decoder = nn.Identity()
    e = torch.tensor([[0.3, -1.0]]).expand(20_000, 2)
    with torch.no_grad():
        z, mean, log_variance = vae(e, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(z.mean(0), mean[0], atol=0.05)
    np.testing.assert_allclose(z.std(0), (log_variance[0] / 2).exp(), rtol=0.05)


@pytest.mark.parametrize("squash", [False, True])
def test_features_above_one_are_returned_only_without_the_sigmoid(squash):
    torch.manual_seed(0)
    e = 3 + 0.1 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    vae, rng = FeatureVAE(4, 2, squash), torch.Generator().manual_seed(1)
    fit_vae(vae, e, rng, epochs=150, lr=1e-2, beta=0.0)
    back = vae(e, rng)[0]
    assert (back.max() <= 1) == squash
    assert ((back - e).square().mean() < 0.1) != squash
    assert not any(p.requires_grad for p in vae.parameters())


class Scaled(nn.Module):
    """In place of an autoencoder: returns a share of the features, without a draw."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, e, rng):
        return self.share * e, None, None


def two_layers():
    net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)).double()
    net[0].weight.data, net[1].weight.data = random(2, 3, seed=5), random(3, 2, seed=6)
    return Classifier(net, 3)


def rows(x):
    return Resident(Arrays(x, torch.zeros(len(x)).long()), lambda x, rng: x)


class Adam:
    """As its authors write it."""

    def __init__(self, lr):
        self.lr, self.m, self.v, self.t = lr, 0, 0, 0

    def step(self, w, g):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return w - self.lr * m / (np.sqrt(v) + 1e-8)


def by_hand(x_f, x_r, w, lrs, t, epochs):
    """Weights of the first layer after so many pairs of steps, each with both sets whole."""
    f, r, old = x_f.numpy(), x_r.numpy(), w.copy()

    def extractor(w):
        m_r, m_f = (m_of(x @ w.T, x @ w.T / n) for x, n in ((r, len(f) + len(r)), (f, len(f))))
        return np.exp(m_r / (m_r + 1)).sum() - np.exp(m_f / (m_f + 1)).sum()

    def cosines(w, x):
        u, v = x @ w.T, x @ old.T
        return (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)

    def aligned(w):
        return (1 - cosines(w, r)).sum() - len(r) * logsumexp((1 - cosines(w, f)) / t)

    plan = [(loss, Adam(lr)) for loss, lr in zip((extractor, aligned), lrs, strict=True)]
    for loss, opt in plan * epochs:
        w = opt.step(w, numeric(loss, w))
    return w


@pytest.mark.parametrize(("epochs", "t"), [(1, 0.5), (6, 0.1), (6, 5.0)])
def test_steps_down_each_loss_are_those_of_adam(monkeypatch, epochs, t):
    """A first step of Adam knows the sign of a gradient alone; after several τ and the weights of both sums matter."""
    monkeypatch.setattr(LAF, "_autoencoder", lambda self, e, run: Scaled(1 / len(e)))
    x_f, x_r, lrs = random(3, 3), random(4, 3, seed=1), (0.01, 0.02)
    whole = Resident(Arrays(torch.cat([x_f, x_r]), torch.zeros(7).long()), lambda x, rng: x)
    data = split(whole.take(torch.arange(3)), whole.take(torch.arange(3, 7)))
    method = LAF(extractor_lr=lrs[0], alignment_lr=lrs[1], temperature=t, epochs=epochs, batch_size=8)
    done = method.unlearn(two_layers(), data, Run())
    start = two_layers().module[0].weight.detach().numpy()
    wanted = by_hand(x_f, x_r, start, lrs, t, epochs)
    np.testing.assert_allclose(done.module[0].weight.detach(), wanted, atol=1e-5)
    if epochs > 1:
        assert np.abs(by_hand(x_f, x_r, start, lrs, 2 * t, epochs) - wanted).max() > 1e-3
    assert torch.equal(done.module[1].weight, two_layers().module[1].weight)  # the head has no part in it


def test_each_set_is_held_against_its_own_autoencoder(monkeypatch):
    """Both losses of a pair of batches where nothing moves: then every s is zero."""
    losses = []
    monkeypatch.setattr(laf, "descend", lambda opt, loss: losses.append(loss.item()))
    monkeypatch.setattr(LAF, "_autoencoder", lambda self, e, run: Scaled(1 / len(e)))
    whole = Resident(Arrays(random(7, 3), torch.zeros(7).long()), lambda x, rng: x)
    data = split(whole.take(torch.arange(3)), whole.take(torch.arange(3, 7)))
    LAF(epochs=1, batch_size=8).unlearn(two_layers(), data, Run())
    e = (random(7, 3) @ two_layers().module[0].weight.detach().T).numpy()
    m_r, m_f = m_of(e[3:], e[3:] / 7), m_of(e[:3], e[:3] / 3)
    extractor = np.exp(m_r / (m_r + 1)).sum() - np.exp(m_f / (m_f + 1)).sum()
    assert losses == [pytest.approx(extractor, rel=1e-9), pytest.approx(-4 * np.log(3), rel=1e-6)]


def test_the_autoencoders_see_all_features_and_those_of_the_forget_set(monkeypatch):
    seen = []

    def record(self, e, run):
        seen.append(e.clone())
        return Scaled(0.5)

    monkeypatch.setattr(LAF, "_autoencoder", record)
    forget, retain = images(6), images(9, seed=1)
    subject = classifier()
    source = Resident(Arrays(torch.cat([forget.source.x, retain.source.x]), torch.zeros(15).long()))
    data = split(source.take(torch.arange(6)), source.take(torch.arange(6, 15)))
    with torch.no_grad(), mode(subject.module, train=False):
        wanted = subject.features(next(source.batches(15)))
    LAF(**BRIEF).unlearn(subject, data, Run())
    torch.testing.assert_close(seen[0], wanted)
    torch.testing.assert_close(seen[1], wanted[:6])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_head_and_statistics_stay_and_repair_moves_the_head_alone(dtype):
    def after(repair):
        data = split(images(12, dtype=dtype), images(30, seed=1, dtype=dtype))
        start = replace(classifier(), module=classifier().module.to(dtype))
        return LAF(**BRIEF, repair_epochs=repair).unlearn(start, data, Run()).module.state_dict()

    subject = classifier()
    names = dict(subject.module.named_parameters())
    head = head_of(subject, next(images(2).batches(2)))
    assert {n for n, p in names.items() if any(p is h for h in head)} == {"9.weight", "9.bias"}
    before = {n: v.to(dtype) if v.is_floating_point() else v for n, v in state(subject.module).items()}
    plain, mended = after(0), after(2)
    still = {n for n in before if torch.equal(before[n], plain[n])}
    assert {"9.weight", "9.bias"} | {n for n in before if "running" in n} <= still
    assert {n for n in plain if not torch.equal(plain[n], mended[n])} == {"9.weight", "9.bias"}


def test_repair_reads_as_many_labelled_batches_as_the_forget_set_has():
    read = {}
    for repair in (0, 3):
        data = split(images(12), Counted(images(40, seed=1)))
        LAF(**BRIEF, repair_epochs=repair).unlearn(classifier(), data, Run())
        read[repair] = data.retain.read
    assert read[3] - read[0] == 2 + 3 * 2 * 8  # a look at the head, then two batches of eight in each epoch
    assert LAF().reads() == {"forget.x", "retain.x"}
    assert LAF(repair_epochs=1).reads() == {"forget.x", "retain"}


def test_the_autoencoders_are_made_and_fitted_as_asked(monkeypatch):
    made, fitted = [], []

    def make(*args):
        made.append(args)
        return FeatureVAE(*args)

    monkeypatch.setattr(laf, "FeatureVAE", make)
    monkeypatch.setattr(laf, "fit_vae", lambda _vae, e, _rng, *how: fitted.append((len(e), *how)))
    whole = Resident(Arrays(random(7, 3), torch.zeros(7).long()), lambda x, rng: x)
    data = split(whole.take(torch.arange(3)), whole.take(torch.arange(3, 7)))
    for decoder in ("linear", "sigmoid"):
        LAF(epochs=1, latent=5, decoder=decoder, vae_epochs=4, vae_lr=0.3, beta=0.7).unlearn(
            two_layers(), data, Run()
        )
    assert made == [(2, 5, False)] * 2 + [(2, 5, True)] * 2
    assert fitted == [(7, 4, 0.3, 0.7), (3, 4, 0.3, 0.7)] * 2


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("random-small", (8, 20, 5e-5, 1e-4, 5)),
        ("random", (16, 40, 1e-5, 4e-5, 20)),
        ("paper-small", (8, 20, 5e-5, 1e-4, 20)),  # class removal and label noise have one row
        ("paper", (16, 40, 1e-5, 5e-5, 20)),
        ("noisy", (16, 40, 1e-5, 4e-5, 5)),
    ],
)
def test_published_settings(name, row):
    m = LAF.preset(name)
    assert (m.latent, m.epochs, m.extractor_lr, m.alignment_lr, m.temperature) == row
    assert (m.batch_size, m.vae_epochs, m.vae_lr, m.beta, m.decoder) == (32, 10, 1e-3, 0.025, "sigmoid")
    assert m.repair_epochs == 0
    assert set(LAF.presets) == {"random-small", "random", "paper-small", "paper", "noisy"}
