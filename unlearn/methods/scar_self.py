"""Self-forget SCAR: class removal without an image of the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unlearn.data import Batch, Handle, Split
from unlearn.errors import Mismatch
from unlearn.knobs import knob
from unlearn.method import Method
from unlearn.ops.distances import features_of
from unlearn.ops.distill import kl
from unlearn.ops.gaussians import ClassSpace
from unlearn.ops.steps import Lookup, accuracy, descend, outputs_by_index
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import EmbedsClasses, mode


@methods.register("scar-self")
class SCARSelf(Method[EmbedsClasses]):
    """Removes a class by the surrogates that are taken for it; reads no forget or retain image.

    The removed classes are those of the model of which class statistics hold none. With d_j as in SCAR, x_p
    the surrogates that θ₀ takes for a removed class, x_o the others, and k(x) = argmin_j d_j(x),

        L = λ2 mean KL(softmax(z₀(x_o)) ‖ softmax(z(x_o))) + λ1 mean d_k(x_p),

    minimised with Adam, the two terms by two forward passes; a batch without any x_p is skipped. It stops
    after the epoch in which the share of x_p that is still taken for a removed class falls below `target`.

    References:
        Bonato et al., 2024, Is retain set all you need in machine unlearning? Restoring performance of
        unlearned models with out-of-distribution images, arXiv:2404.12922

    Differences from the authors' released code:
        Their stopping rule measures the accuracy on the forget set after every step, which needs the images
        that the method does without: `stop="forget"`, here after every epoch. k(x) is fixed at θ₀ as in
        SCAR; theirs is taken again at every step: `reassign`. Surrogates are not cropped or flipped.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"surrogate", "statistics"})
    expected_failures: ClassVar[Mapping[str, str]] = {
        "class": "Patches of photographs resemble no digit: what is unlearned on them hardly reaches digits.",
        "random": "It removes whole classes only and refuses anything else.",
        "noisy": "It removes whole classes only and refuses anything else.",
    }

    lr: float = knob(1.1e-3, "step size of Adam", gt=0, search=(1e-4, 1e-2))
    epochs: int = knob(12, "largest number of passes over the surrogates", ge=1, search=(5, 40))
    batch_size: int = knob(64, "surrogates in a step", ge=1)
    lambda1: float = knob(1.4, "weight λ1 of the distance", ge=0, search=(0.1, 3.0))
    lambda2: float = knob(0.4, "weight λ2 of distillation", ge=0, search=(0.1, 10.0))
    delta: float = knob(0.5, "exponent δ of features", gt=0, le=1)
    gamma1: float = knob(3.0, "share γ1 of the mean variance added to variances", ge=0)
    gamma2: float = knob(3.0, "share γ2 of the mean covariance added to covariances", ge=0)
    shrinks: int = knob(1, "how often covariances are shrunk", ge=0)
    reassign: bool = knob(False, "take the nearest class anew at every step, as the released code")
    stop: Literal["surrogate", "forget"] = knob("surrogate", "what must no longer be taken for the class")
    target: float = knob(0.01, "share of it at which to stop", ge=0, le=1)

    def reads(self) -> frozenset[str]:
        """With the forget set where that decides when to stop."""
        return self.uses | {"forget"} if self.stop == "forget" else self.uses

    def unlearn(self, subject: EmbedsClasses, data: Split, run: Run) -> EmbedsClasses:
        """See `Method.unlearn`.

        Raises:
            Mismatch: If no class is removed, or no surrogate is taken for one that is.
        """
        stats = data.statistics.gaussians(self.delta)
        v, _, index = features_of(subject, data.surrogate.batches(self.batch_size))
        space = ClassSpace.of(stats, self.delta, self.gamma1, self.gamma2, self.shrinks, v)
        teacher = outputs_by_index(subject, data.surrogate)
        gone = removed(subject.classes, space.labels)
        if not bool(gone[teacher.values.argmax(1)].any()):
            raise Mismatch(
                f"none of {len(index)} surrogates is taken for a removed class, so scar-self has nothing to learn from; give other surrogates or use scar"
            )
        k = Lookup(index, space.distances(v).argmin(1))
        opt = torch.optim.Adam(subject.module.parameters(), self.lr)
        with mode(subject.module, train=True):
            for _ in run.track(range(self.epochs), "unlearn"):
                for s in data.surrogate.batches(self.batch_size, run.rng):
                    z0 = teacher(s.index)
                    pseudo = gone[z0.argmax(1)]
                    if not bool(pseudo.any()):
                        continue
                    loss = self.lambda1 * self._pull(subject, _rows(s, pseudo), space, k)
                    if not bool(pseudo.all()):
                        z = subject.outputs(_rows(s, ~pseudo))
                        loss = loss + self.lambda2 * kl(z0[~pseudo], z).mean()
                    descend(opt, loss)
                if self._left(subject, data, teacher, gone, run) < self.target:
                    break
        return subject

    def _pull(self, subject: EmbedsClasses, s: Batch, space: ClassSpace, k: Lookup) -> Tensor:
        """Mean distance of features to the classes that they are sent to."""
        d = space.distances(subject.features(s))
        goal = d.detach().argmin(1) if self.reassign else k(s.index)
        return d.gather(1, goal[:, None]).mean()

    def _left(self, subject: EmbedsClasses, data: Split, teacher: Lookup, gone: Tensor, run: Run) -> float:
        """The share that decides when to stop."""
        if self.stop == "forget":
            left = accuracy(subject, data.forget)
        else:
            left = still_taken(subject, data.surrogate, teacher, gone)
        run.note(left=left)
        return left


@torch.no_grad()
def still_taken(subject: EmbedsClasses, surrogate: Handle, teacher: Lookup, gone: Tensor) -> float:
    """Share of the surrogates taken for removed classes by the original that still are; evaluation mode.

    Args:
        subject: The present model.
        surrogate: The images.
        teacher: Logits of the original by id.
        gone: Removed classes, as a mask of shape (C,).
    """
    both, before = [], []
    with mode(subject.module, train=False):
        for s in surrogate.batches(512):
            pseudo = gone[teacher(s.index).argmax(1)]
            both.append(pseudo & gone[subject.outputs(s).argmax(1)])
            before.append(pseudo)
    return float(torch.cat(both).sum() / torch.cat(before).sum())


def removed(classes: int, kept: Tensor) -> Tensor:
    """Mask (C,) of the classes of which statistics hold none.

    Args:
        classes: Number of classes C of the model.
        kept: Classes that have statistics, with shape (J,).

    Raises:
        Mismatch: If every class is kept.
    """
    gone = torch.ones(classes, dtype=torch.bool, device=kept.device)
    gone[kept] = False
    if not bool(gone.any()):
        raise Mismatch(
            "scar-self removes whole classes and every class still has retained examples; ask for class=..., or use scar"
        )
    return gone


def _rows(batch: Batch, keep: Tensor) -> Batch:
    return Batch(batch.x[keep], batch.y[keep], batch.index[keep])
