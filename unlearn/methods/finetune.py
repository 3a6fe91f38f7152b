"""Fine-tuning on the retain set."""

from __future__ import annotations

from typing import ClassVar

from unlearn.data import Split
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.steps import descend, sgd
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import HasLoss, mode


@methods.register("finetune")
class FineTune(Method[HasLoss]):
    """Goes on training on the retain set and hopes that the rest is forgotten on the way.

    θ ← θ − η ∇ mean ℓ(f(x_r), y_r), with SGD and momentum at a constant step size.

    References:
        Warnecke et al., 2021, Machine unlearning of features and labels, arXiv:2108.11577
        Jia et al., 2023, Model sparsity can simplify machine unlearning, arXiv:2304.04934

    Differences from the authors' released code:
        None in the update; published settings differ from each other and are presets.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"retain"})
    presets: ClassVar = {
        "paper": Preset("Unlearn-Sparse, CIFAR-10, ResNet-18", {"epochs": 10, "lr": 0.01, "batch_size": 256}),
        "ssd": Preset("baseline of the SSD authors' scripts", {"epochs": 5, "lr": 0.02}),
        "scrub": Preset(
            "baseline of the SCRUB authors' notebooks, small scale",
            {"epochs": 10, "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0},
        ),
        "scrub-mia": Preset("baseline of the SCRUB authors' membership study", {"epochs": 10, "lr": 0.04}),
    }
    expected_failures: ClassVar = {
        "class": "Nothing pushes against the forgotten class, so a model that fits keeps all of it.",
        "noisy": "Five passes over retain alone leave every memorised label; their loss hardly rises.",
        "concept": "Nothing pushes against the concept, and training on the rest leaves it as it is.",
        "range": "Training on the rest moves what was learnt of a range only part of the way to what a model predicts that never saw it.",
    }

    lr: float = knob(0.1, "step size η", gt=0, search=(1e-3, 0.3))
    epochs: int = knob(5, "passes over the retain set", ge=1, search=(1, 10))
    batch_size: int = knob(64, "examples in a step", ge=1)
    momentum: float = knob(0.9, "of SGD", ge=0, lt=1)
    weight_decay: float = knob(5e-4, "L2 penalty", ge=0)
    augment: bool = knob(False, "crop and flip while training")

    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        """See `Method.unlearn`."""
        opt = sgd(subject.module.parameters(), self.lr, self.momentum, self.weight_decay)
        with mode(subject.module, train=True):
            for _ in run.track(range(self.epochs), "unlearn"):
                for r in data.retain.batches(self.batch_size, run.rng, augment=self.augment):
                    descend(opt, subject.loss(r, run.rng).mean())
        return subject
