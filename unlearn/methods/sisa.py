"""Exact unlearning by shards and slices (SISA)."""

from __future__ import annotations

from typing import ClassVar

import torch

from unlearn.data import Split
from unlearn.deletable import Sliced
from unlearn.method import Method
from unlearn.registry import methods
from unlearn.runtime import Run


@methods.register("sisa")
class SISA(Method[Sliced]):
    """Drops the examples and trains their shards again from the last clean stage of each: exact.

    In a shard of S slices, stage s is trained from stage s − 1 on slices 1 … s. Where the first slice that holds a
    forgotten example is s, stages s … S are erased and trained anew without it, from stage s − 1, by their old seeds.
    What comes out is what training without these examples would have given, bit for bit.

    The model must have been trained so: in a scenario with `deletable=sisa:5x4`, five shards of four slices. Of E epochs,
    ⌊(s + 1) a⌋ − ⌊s a⌋ with a = 2 E / (S + 1) fall to stage s. Shards predict together by the mean of their
    probabilities, or by votes with `deletable=sisa:5x4:votes`. On a model made for S3T it trains the missing stages of
    every order.

    Published, in the released code, for rows of purchases: SGD at 1e-3, batches of 16; E = 20 over S = 5 slices makes
    stages of 6, 7, 7, 6 and 7 epochs. Here rate, epochs and batches are those of the scenario, for images
    `deletable=sisa:5x5,lr=0.001,batch=16,epochs=20`, and its recipe, which has a schedule and momentum.

    References:
        Bourtoule et al., 2021, Machine unlearning, arXiv:1912.03817

    Differences from the authors' released code:
        Slices are drawn by a hash of the example's id, so that they are of one size only on average; theirs are cut to
        size. All shards start from the same weights.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"forget.x", "retain"})
    exact: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True
    advice: ClassVar[str] = (
        "a scenario with deletable=sisa:5x4 makes one, as in digits/random=0.01,deletable=sisa:5x4"
    )

    def unlearn(self, subject: Sliced, data: Split, run: Run) -> Sliced:
        """See `Method.unlearn`.

        Raises:
            BadValue: If the model never saw a forgotten example, or dropped it before.
            Mismatch: If the recipe of the subject is unknown.
        """
        subject.drop(torch.cat([f.index for f in data.forget.batches(512)]))
        subject.resume(data.retain, run)
        return subject
