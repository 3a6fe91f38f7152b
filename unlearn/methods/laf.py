"""Label-agnostic forgetting (LAF)."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from unlearn.data import Batch, Split, paced
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.networks import seeded
from unlearn.ops.steps import descend, features_by_index
from unlearn.ops.vae import FeatureVAE, fit_vae
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import EmbedsClasses, mode

RESNET = "authors' code, CIFAR-10 and SVHN, ResNet-18"
CNN = "authors' code, MNIST and Fashion-MNIST, small CNN"
RELEASED = {"batch_size": 32, "vae_epochs": 10, "vae_lr": 1e-3, "beta": 0.025, "decoder": "sigmoid"}
LARGE = {"extractor_lr": 1e-5, "epochs": 40, "latent": 16}
SMALL = {"extractor_lr": 5e-5, "alignment_lr": 1e-4, "epochs": 20, "latent": 8}


@methods.register("laf")
class LAF(Method[EmbedsClasses]):
    """Moves forget features off what they were like and holds the others where they were; label-free.

    With e the features, e₀ those of θ₀, two autoencoders fitted to e₀ (h of forget and retain set, h_f of the
    forget set alone, see `FeatureVAE`), m = ‖h(e) − e‖² and m_f alike, and s = 1 − cos(e, e₀), each pair of a
    forget batch F and a retain batch R takes a step with Adam down L_UE, then one down L_RA:

        L_UE = Σ_R exp(m / (m + 1)) − Σ_F exp(m_f / (m_f + 1)),
        L_RA = Σ_R s − |R| log Σ_F exp(s / τ).

    All stays in evaluation mode. The head keeps its weights; with `repair_epochs` (LAF+R) it is trained
    afterwards on labelled retain examples, in each epoch as many batches as the forget set has.

    References:
        Shen et al., 2024, Label-agnostic forgetting: a supervision-free unlearning in deep models,
        arXiv:2404.00506

    Differences from the authors' released code:
        Features are what enters the head, where theirs come from a linear layer of 256 units that is added
        for the purpose. The autoencoders return any number; theirs end in a sigmoid, which cannot return
        features outside 0 to 1: `decoder`. They are trained on features of plain images, made once. The step size of
        LAF+R was not recorded, so `repair_lr` is ours, and no preset sets it.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"forget.x", "retain.x"})
    presets: ClassVar = {
        "paper": Preset(f"{RESNET}, class removal", {**RELEASED, **LARGE, "alignment_lr": 5e-5, "temperature": 20.0}),
        "paper-small": Preset(
            f"{CNN}, class removal and label noise", {**RELEASED, **SMALL, "temperature": 20.0}
        ),
        "random-small": Preset(f"{CNN}, two fifths of half of the classes", {**RELEASED, **SMALL, "temperature": 5.0}),
        "random": Preset(
            f"{RESNET}, two fifths of half of the classes",
            {**RELEASED, **LARGE, "alignment_lr": 4e-5, "temperature": 20.0},
        ),
        "noisy": Preset(f"{RESNET}, label noise", {**RELEASED, **LARGE, "alignment_lr": 4e-5, "temperature": 5.0}),
    }  # fmt: skip

    extractor_lr: float = knob(5.4e-3, "step size of Adam down L_UE", gt=0, search=(1e-5, 1e-2))
    alignment_lr: float = knob(8.9e-3, "step size of Adam down L_RA", gt=0, search=(1e-5, 1e-2))
    epochs: int = knob(27, "passes over the forget set", ge=1, search=(5, 40))
    batch_size: int = knob(32, "examples in a batch of either set", ge=1)
    temperature: float = knob(13.0, "τ", gt=0, search=(0.2, 20.0))
    latent: int = knob(8, "dimensions of the autoencoders' Gaussian", ge=1)
    vae_epochs: int = knob(10, "passes over the features while an autoencoder is trained", ge=1)
    vae_lr: float = knob(1e-3, "step size of Adam for the autoencoders", gt=0)
    beta: float = knob(0.025, "weight of the autoencoders' divergence from the prior", ge=0)
    decoder: Literal["linear", "sigmoid"] = knob(
        "linear", "what the autoencoders end in; sigmoid as released"
    )
    repair_epochs: int = knob(0, "passes that train the head with labels (LAF+R); 0 reads no label", ge=0)
    repair_lr: float = knob(1e-3, "step size of Adam for the head", gt=0)

    def reads(self) -> frozenset[str]:
        """With retain labels where the head is trained."""
        return frozenset({"forget.x", "retain"}) if self.repair_epochs else self.uses

    def unlearn(self, subject: EmbedsClasses, data: Split, run: Run) -> EmbedsClasses:
        """See `Method.unlearn`."""
        old = features_by_index(subject, data.forget, data.retain)
        whole = self._autoencoder(old.values, run)
        gone = self._autoencoder(old.values[: len(data.forget)], run)
        extract, align = (
            torch.optim.Adam(subject.module.parameters(), lr) for lr in (self.extractor_lr, self.alignment_lr)
        )
        with mode(subject.module, train=False):
            for _ in run.track(range(self.epochs), "unlearn"):
                for f, r in paced(data.forget, data.retain, self.batch_size, run.rng):
                    e_r, e_f = subject.features(r), subject.features(f)
                    descend(
                        extract, surprise(e_r, whole(e_r, run.rng)[0]) - surprise(e_f, gone(e_f, run.rng)[0])
                    )
                    s_r, s_f = (
                        1 - cosine_similarity(subject.features(b), old(b.index), dim=1) for b in (r, f)
                    )
                    descend(align, alignment(s_r, s_f, self.temperature))
            self._repair(subject, data, run)
        return subject

    def _autoencoder(self, e: Tensor, run: Run) -> nn.Module:
        """One fitted to features e (N, D)."""
        vae = seeded(lambda: FeatureVAE(e.shape[1], self.latent, self.decoder == "sigmoid"), run.rng).to(e)
        fit_vae(vae, e, run.rng, self.vae_epochs, self.vae_lr, self.beta)
        return vae

    def _repair(self, subject: EmbedsClasses, data: Split, run: Run) -> None:
        """Trains the head on a few batches of labelled retain examples (LAF+R)."""
        if not self.repair_epochs:
            return
        head = head_of(subject, next(iter(data.retain.batches(2))))
        opt = torch.optim.Adam(head, self.repair_lr)
        steps = -(-len(data.forget) // self.batch_size)
        for _ in range(self.repair_epochs):
            for r in islice(data.retain.batches(self.batch_size, run.rng), steps):
                for p, g in zip(head, torch.autograd.grad(subject.loss(r).mean(), head), strict=True):
                    p.grad = g
                opt.step()
                opt.zero_grad(set_to_none=True)


def surprise(e: Tensor, back: Tensor) -> Tensor:
    """Σ exp(m / (m + 1)) with m = ‖ê − e‖² of each example: from 1 each for none up to e each.

    Args:
        e: Features, with shape (B, D).
        back: What an autoencoder makes of them, ê, with shape (B, D).

    Example:
        >>> import math
        >>> e = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> math.isclose(surprise(e, torch.zeros(2, 2)).item(), 1 + math.exp(0.5), rel_tol=1e-6)
        True
    """
    m = (back - e).square().sum(1)
    return (m / (m + 1)).exp().sum()


def alignment(s_r: Tensor, s_f: Tensor, temperature: float) -> Tensor:
    """L_RA = Σ s_r − B_r log Σ exp(s_f / τ).

    Args:
        s_r: 1 − cos of present and old features of retain examples, with shape (B_r,).
        s_f: The same of forget examples, with shape (B_f,).
        temperature: τ.

    Example:
        >>> alignment(torch.tensor([0.5, 0.25]), torch.tensor([0.0]), 2.0)
        tensor(0.7500)
    """
    return s_r.sum() - len(s_r) * (s_f / temperature).logsumexp(0)


def head_of(subject: EmbedsClasses, batch: Batch) -> list[nn.Parameter]:
    """Parameters on which outputs depend and features do not.

    Args:
        subject: The model.
        batch: A few examples, which show what depends on what.
    """
    params = [p for p in subject.module.parameters() if p.requires_grad]
    v, z = subject.features_and_outputs(batch)
    body, all_ = (torch.autograd.grad(t.sum(), params, allow_unused=True, retain_graph=True) for t in (v, z))
    return [p for p, b, a in zip(params, body, all_, strict=True) if b is None and a is not None]
