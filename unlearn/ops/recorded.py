"""A network with a record of its training: what each step changed, and which examples were in its batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from unlearn.data import Batch
from unlearn.errors import BadValue, Mismatch
from unlearn.subject import HasLoss

NOBODY = -1


class Record(nn.Module):
    """A network beside the record of its training.

    Buffers: `deltas` (T, P), what each recorded step added to the P parameters; `batches` (T, B), the ids of the
    examples in its batch, filled up with −1; `skipped` (K,), ids of examples in batches that were not recorded. The
    running statistics of batch norm are not part of the record.

    Args:
        net: The network.
    """

    deltas: Tensor
    batches: Tensor
    skipped: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        flat = vector(net)
        self.register_buffer("deltas", flat.new_zeros(0, len(flat)))
        for name, shape in (("batches", (0, 0)), ("skipped", (0,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.long, device=flat.device))

    def forward(self, x: Tensor) -> Any:
        """What the network gives for inputs (B, *)."""
        return self.net(x)

    def write(self, steps: Sequence[tuple[Tensor, Tensor]], skipped: Sequence[Tensor]) -> None:
        """Takes a new record in place of the old one.

        Args:
            steps: What each recorded step added to the parameters, (P,), and the ids of its batch, (B,).
            skipped: Ids of the batches of all other steps.
        """
        rows = [ids for _, ids in steps]
        self.deltas = torch.stack([d for d, _ in steps]) if steps else self.deltas[:0]
        self.batches = (
            nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NOBODY)
            if rows
            else self.batches[:0]
        )
        self.skipped = torch.cat(list(skipped)).unique() if skipped else self.skipped[:0]

    def steps_with(self, ids: Tensor) -> Tensor:
        """Numbers of the recorded steps whose batch held one of these examples, in order; none of an untrained model.

        Raises:
            BadValue: If one of them was in no batch, or in one that was not recorded.
        """
        if not (len(self.deltas) or len(self.skipped)):  # untrained
            return ids.new_zeros(0)
        ids = ids.to(self.batches.device)
        lost, strange = ids[torch.isin(ids, self.skipped)], ids[~torch.isin(ids, self.batches)]
        for found, why in (
            (lost, "was in batches that were not recorded"),
            (strange, "is in no recorded batch"),
        ):
            if len(found):
                raise BadValue(
                    f"example {int(found[0])} {why} ({len(found)} such), so what it changed cannot be subtracted; train with a record of its batches, or retrain without it"
                )
        return torch.isin(self.batches, ids).any(1).nonzero().flatten()

    @torch.no_grad()
    def subtract(self, steps: Tensor) -> None:
        """θ ← θ − Σ Δθ over some recorded steps, which leave the record."""
        change = self.deltas[steps].double().sum(0)
        add(self.net, -change)
        kept = torch.ones(len(self.deltas), dtype=torch.bool, device=self.deltas.device)
        kept[steps] = False
        self.deltas, self.batches = self.deltas[kept], self.batches[kept]

    def stored(self) -> int:
        """Bytes of the record."""
        return self.deltas.nbytes + self.batches.nbytes + self.skipped.nbytes

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name in ("deltas", "batches", "skipped"):  # as long as the one that was saved
            if f"{prefix}{name}" in state_dict:
                old: Tensor = getattr(self, name)
                setattr(self, name, old.new_empty(state_dict[f"{prefix}{name}"].shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Watching:
    """A subject that writes down what each training step changes; a recipe asks it for one loss in each step.

    The change of a step is seen when the next loss is asked for, or at the end.

    Args:
        subject: What is trained.
        watched: Ids of examples whose batches are recorded, with shape (n,); all batches if None.

    Attributes:
        module: The subject's.
        steps: What each recorded step added to the parameters, (P,), and the ids of its batch, (B,).
        skipped: Ids of the batches of all other steps.
    """

    def __init__(self, subject: HasLoss, watched: Tensor | None) -> None:
        self.module, self._subject, self._watched = subject.module, subject, watched
        self.steps: list[tuple[Tensor, Tensor]] = []
        self.skipped: list[Tensor] = []
        self._before, self._ids = vector(self.module), torch.zeros(0, dtype=torch.long)

    def clone(self) -> Watching:
        """Refused: there is one record.

        Raises:
            Mismatch: Always.
        """
        raise Mismatch("a recipe that copies the model while it trains cannot be recorded; train it by sgd")

    def loss(self, batch: Batch, rng: Generator | None = None) -> Tensor:
        """Training loss of each example, with shape (B,)."""
        self.finish()
        self._ids = batch.index
        return self._subject.loss(batch, rng)

    def finish(self) -> None:
        """Writes down the last step."""
        if not len(self._ids):
            return
        now = vector(self.module)
        if self._watched is None or bool(torch.isin(self._ids, self._watched.to(self._ids.device)).any()):
            self.steps.append((now - self._before, self._ids))
        else:
            self.skipped.append(self._ids)
        self._before, self._ids = now, self._ids[:0]


def vector(net: nn.Module) -> Tensor:
    """A copy of all parameters side by side, with shape (P,)."""
    return parameters_to_vector(p.detach() for p in net.parameters()).clone()


@torch.no_grad()
def add(net: nn.Module, change: Tensor) -> None:
    """Adds to all parameters, in double precision, rounded once.

    Args:
        net: The network.
        change: In float64, with shape (P,).
    """
    flat = vector(net)
    vector_to_parameters((flat.double() + change).to(flat), net.parameters())
