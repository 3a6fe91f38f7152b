"""Exact unlearning of the last k layers (EU-k)."""

from __future__ import annotations

from typing import ClassVar

from unlearn.data import Split
from unlearn.knobs import knob
from unlearn.method import Method
from unlearn.ops.freezing import copy_layers, last_layers, only
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import TrainsInLayers


@methods.register("eu-k")
class EUk(Method[TrainsInLayers]):
    """Trains the last k layers anew on the retain set; the layers before them keep their bits.

    θ_i ← A(D_r, seed)_i for i in the last k layers, newly initialised and trained by the recipe that made the
    original, the rest frozen. What the frozen layers know of the forget set they keep, so only the last
    layers are exact, not the model.

    Layers are linear layers and convolutions, counted from the output in the order of a forward pass; norms
    between them start and train anew. Frozen batch norms use and keep their running statistics.

    References:
        Goel et al., 2022, Towards adversarial evaluations for inexact machine unlearning, arXiv:2201.06640

    Differences from the authors' released code:
        None in what is frozen. Copies of this method that free one block and freeze the head behind it are
        another method.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"retain"})
    expected_failures: ClassVar = {
        "noisy": "The layers that it keeps have memorised the wrong labels, and the attack finds the trace.",
    }

    k: int = knob(4, "layers to train anew, from the output", ge=1, search=(1, 10))

    def unlearn(self, subject: TrainsInLayers, data: Split, run: Run) -> TrainsInLayers:
        """See `Method.unlearn`.

        Raises:
            BadValue: If the model has fewer than k layers.
            Mismatch: If the recipe of the subject is unknown.
        """
        free = last_layers(subject, data.retain, self.k)
        copy_layers(subject.module, subject.fresh(run.rng).module, free)
        with only(subject.module, free):
            subject.fit(data.retain, run)
        return subject
