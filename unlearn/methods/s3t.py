"""Exact unlearning by switching layers off (S3T)."""

from __future__ import annotations

from typing import ClassVar

import torch

from unlearn.data import Split
from unlearn.deletable import Sliced
from unlearn.errors import Exhausted
from unlearn.method import Method
from unlearn.registry import methods
from unlearn.runtime import Run


@methods.register("s3t")
class S3T(Method[Sliced]):
    """Switches off the layers that learned from the forgotten examples' slices, and trains nothing: exact.

    In a shard of L slices, stage i of an order π trains the i-th group of layers from the top and the classifier on
    slices π_0 … π_i, all else frozen. Deleting an example of slice s erases every stage from the place of s in π on. Each
    shard has several orders, and predicts by the longest prefix that any of them has left; the shards predict by the mean
    of their logits. When no shard has a prefix left, the model must be retrained, and this says so.

    The model must have been trained so: in a scenario with `deletable=s3t:5x4`, five shards of four slices in four
    orders, `5x4x2` in two. These are rotations; where one deletion falls into the slices of a shard with known chances,
    `5x4:0.4:0.3:0.2:0.1` matches orders to them, and `5x4x2:0.4:0.3:0.2:0.1` draws two by them. In a transformer a
    group holds low-rank maps of rank 16 beside queries and values (a block that names none: beside all linear layers), in
    any other network, which is trained from the start, the layers themselves with their batch norms.

    Published, in the released code: ViT-B, six stages of two layers, rate 2e-4, 15 epochs for each stage, batches of 64 to
    128; and five shards of four slices in all 24 orders, three layers for each, rate 2e-3, batches of 128. Here rate, epochs
    and batches are those of the scenario. A pre-trained network with low-rank maps on it, as published, is a file of one's
    own with its `fit`: `custom/indices=3:17,model=mine.py:build,deletable=s3t:5x4x24`, see `unlearn show custom`.

    References:
        Chowdhury et al., 2025, Towards scalable exact machine unlearning using parameter-efficient fine-tuning,
        arXiv:2406.16257

    Differences from the authors' released code:
        Layers are matched by their whole names; theirs by parts, so that the last of six stages trains the top layers
        again. The classifier of a prefix is the one that was trained with it. The last epoch is kept, not the one that
        is best on test data. No dropout on low-rank maps. Orders that begin alike share what they learned there.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"forget.x"})
    exact: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True
    advice: ClassVar[str] = (
        "a scenario with deletable=s3t:5x4 makes one, as in digits/random=0.01,deletable=s3t:5x4"
    )

    def unlearn(self, subject: Sliced, data: Split, run: Run) -> Sliced:
        """See `Method.unlearn`.

        Raises:
            BadValue: If the model never saw a forgotten example, or dropped it before.
            Exhausted: If nothing is left that never learned from these slices.
        """
        ids = torch.cat([f.index for f in data.forget.batches(512)])
        trained = any(map(len, subject.slices()))
        subject.drop(ids)
        left = subject.left()
        if trained and not left.any():
            raise Exhausted(
                f"s3t: each of {left.numel()} orders in {len(left)} shards begins with a slice of which examples were deleted ({len(ids)} now), so nothing is left that may be used; retrain the model without them, or train the missing stages with sisa"
            )
        run.note(stages=float(left.amax(1).sum()), shards=float((left.amax(1) > 0).sum()))
        return subject
