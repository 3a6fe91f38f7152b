"""DM-direct: serving predicted outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from unlearn.data import Split
from unlearn.knobs import knob
from unlearn.method import Method, Preset
from unlearn.ops.attribution import Removal, file_of, named
from unlearn.ops.matching import some
from unlearn.ops.peers import places
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import EmbedsClasses
from unlearn.subjects._forecast import Forecast


@methods.register("dm-direct")
class DMDirect(Method[EmbedsClasses]):
    """Leaves the weights alone and answers with what a retrained model is predicted to say.

    With F the forget set and A[i, x] what training on example i adds to the logits for x, estimated from models that the
    bench trains on random halves of the training set (see `unlearn.ops.attribution`), what is served is

        t(x) = f₀(x) − κ Σ_{i ∈ F} A[i, x].

    The answer rests on those models, which go with it: an answer costs a forward pass of each, no file of weights holds
    them, and half of them saw each forgotten example. This is a test of the predictions that datamodel matching copies,
    and a defence of answers only. Features and layers are the original's.

    References:
        Georgiev et al., 2024, Attribute-to-delete: machine unlearning via datamodel matching, arXiv:2410.23232

    Differences from the authors' released code:
        Theirs reads A from a file that has training and validation examples, and answers for these alone; ours
        estimates the column of any example when it is asked. What they compute and do not use, a correction of
        shrunken entries, is left out, and so are predictions from what an example adds to itself
        alone, which need to know whether what is asked is a forgotten example.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"forget.x", "pool"})
    deterministic: ClassVar[bool] = True
    presets: ClassVar = {
        "paper": Preset(
            "authors' code, CIFAR-10, ResNet-9; the fewest of 1,000 to 20,000 models",
            {"models": 1000, "scale": 1.0},
        )
    }

    expected_failures: ClassVar = {
        "class": "Random halves hold nearly equal shares of a class, so that what 32 of them predict is mostly noise; a default that spares the rest serves a quarter of it.",
        "noisy": "A quarter of the predicted change leaves half of the memorised labels, and whole it would spoil the rest.",
    }

    models: int = knob(32, "models on random halves, an even number", ge=4)
    attribution: str = knob("difference", "how A is estimated: difference, ridge, or FILE.py:FUNCTION")
    penalty: float = knob(1.0, "of ridge, in mean square lengths of a row of who saw what", gt=0)
    scale: float = knob(0.25, "how much κ of the predicted change is served", gt=0, search=(0.1, 1.0))

    def wants(self) -> tuple[str, int]:
        """See `Method.wants`."""
        return "half-in", self.models

    def files(self) -> Sequence[Path]:
        """See `Method.files`."""
        return [path] if (path := file_of(self.attribution)) else []

    def beside(self) -> bool:
        """See `Method.beside`: the models act beside the weights."""
        return True

    def unlearn(self, subject: EmbedsClasses, data: Split, run: Run) -> EmbedsClasses:
        """See `Method.unlearn`.

        Raises:
            UnlearnError: If the attribution is unknown or of no use, or too few models are lent.
        """
        forget = some(data.forget, len(data.forget))
        ids, seen = data.pool.inside()
        removal = Removal(named(self.attribution, self.penalty), seen, places(ids, forget.index))
        return Forecast.of(subject, data.pool.clones(), removal, self.scale)

    def restore(self, subject: EmbedsClasses, state: Mapping[str, Tensor]) -> EmbedsClasses:
        """See `Method.restore`."""
        return Forecast.restored(subject, state, named(self.attribution, self.penalty), self.scale)
