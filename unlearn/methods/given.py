"""Take weights that somebody else made."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from unlearn.data import Split
from unlearn.errors import BadWeights
from unlearn.knobs import knob
from unlearn.method import Method
from unlearn.ops.checkpoints import open_checkpoint
from unlearn.patch import weights_hash
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import Subject


@methods.register("given")
class Given(Method[Subject]):
    """Takes the weights in a folder or file instead, so that somebody else's result is measured.

    Whatever is no part of the model's own module, such as the autoencoder of a pipeline, stays the original's.

    References:
        None; a control.
    """

    uses: ClassVar[frozenset[str]] = frozenset()
    deterministic: ClassVar[bool] = True
    weights: str = knob(
        "", "folder of save_pretrained, or safetensors file; empty for the original's own weights"
    )
    sha256: str = knob("", "hash that the weights must have; empty for any")

    def unlearn(self, subject: Subject, data: Split, run: Run) -> Subject:
        """See `Method.unlearn`.

        Raises:
            BadWeights: If they are not there, are those of another model, or have another hash.
        """
        if not self.weights:
            return subject
        state = weights_for(subject.module, self.weights)
        if self.sha256 not in ("", weights_hash(state)):
            raise BadWeights(
                f"the weights in {self.weights} have the hash {weights_hash(state)[:12]}, not {self.sha256[:12]}: they changed; give those that were meant"
            )
        subject.module.load_state_dict(state)
        return subject


def weights_for(module: nn.Module, where: str) -> dict[str, Tensor]:
    """The tensors of a folder or file that take the place of a module's own, by their names in the module.

    Raises:
        BadWeights: If there are none, or one is missing or has another shape.
    """
    found = open_checkpoint(Path(where).expanduser())
    state = {}
    for name, old in module.state_dict().items():
        try:
            state[name] = found[name]
            fits = state[name].shape == old.shape
        except BadWeights:
            fits = False
        if not fits:
            raise BadWeights(
                f"{where} has no {name} of shape {tuple(old.shape)}, so it was not made from the original; name with --model the pipeline that it was made from"
            )
    return state
