"""Deletion capacity of a sliced system."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor

from unlearn.deletable import Sliced
from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.capacity import expected, firsts, simulated
from unlearn.ops.stats import ends_of_mean
from unlearn.registry import metrics


@metrics.register("deletion-capacity")
class DeletionCapacity(Metric):
    """Deletions that a sliced system bears, with nothing retrained, until none of its stages may be used.

    Each deletion hits a slice drawn evenly from all N, and switches off what learned from it. The mean over `sequences`
    random sequences is measured; the theory, N H_F with F the number of slices that an order begins with which is not
    used up, is named beside it. A new system of m shards and L slices has F = m with one order of its slices, as SISA,
    and F = m min(B, L) with B rotations, as S3T: m L (log m + O(1)) deletions against m L (log(m min(B, L)) + O(1)).

    References:
        Chowdhury et al., 2025, Towards scalable exact machine unlearning using parameter-efficient fine-tuning,
        arXiv:2406.16257
        Bourtoule et al., 2021, Machine unlearning, arXiv:1912.03817
    """

    needs: ClassVar[type] = Sliced
    sequences: int = knob(1000, "random sequences of deletions", ge=2)

    def measure(self, ev: Evidence) -> list[Score]:
        """One score."""
        subjects = {who: cast(Sliced, ev.subjects[who]) for who in ev.subjects}
        counts = {who: self._counts(subject, ev.seed) for who, subject in subjects.items()}
        done = subjects["unlearned"]
        left, orders = done.left(), done.orders()
        theory = expected(len(left) * len(orders[0]), len(firsts(orders, left)))
        ends = ends_of_mean(counts["unlearned"])
        if ends:
            ends["interval"] = "t 95 % over sequences"
        return [
            ev.level(
                "deletion-capacity/deletions",
                lambda who: counts[who].mean(),
                Aim.UP,
                metric=self.name,
                unit="deletions",
                note=f"theory: {theory:.4f}",
                **ends,
            )
        ]

    def _counts(self, subject: Sliced, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        return simulated(subject.orders(), subject.left(), self.sequences, rng).double()
