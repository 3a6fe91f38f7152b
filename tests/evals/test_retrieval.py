"""Retrieval by hand, on scores that are given."""

import pytest
import torch
from torch import nn

from unlearn.data import Resident
from unlearn.evals.retrieval import Retrieval
from unlearn.metric import Evidence
from unlearn.ops.retrieval import among_best
from unlearn.sources import Arrays
from unlearn.subject import Matches

TEXTS = torch.tensor([[0, 2], [0, 3], [0, 4], [0, 5]])
SAYS = torch.tensor([0, 0, 1, 2])


class Table:
    """An encoder whose inputs are the scores themselves."""

    texts = TEXTS

    def __init__(self, scale):
        self.scale, self.module = scale, nn.Identity()

    def clone(self):
        return self

    def loss(self, batch, rng=None):
        return batch.x.sum(1) * 0

    def outputs(self, batch):
        return self.scale * batch.x

    def cosines(self, batch):
        return batch.x[:, 0]

    def meant(self, ids):
        copies = (ids[:, None] == TEXTS).all(2)
        return (copies[:, :, None] & (SAYS[:, None] == SAYS)).any(1)


# three images to forget, of texts 0, 1 and 2, and two to keep, of texts 2 and 3
FORGET = Arrays(torch.tensor([[1.0, 9, 5, 0], [2, 3, 8, 4], [7, 1, 6, 0]]), TEXTS[[0, 1, 2]])
RETAIN = Arrays(torch.tensor([[0.0, 5, 4, 3], [9, 1, 2, 3]]), TEXTS[[2, 3]])


def scores():
    handles = {
        n: Resident(s) for n, s in (("forget", FORGET), ("retain", RETAIN), ("test", RETAIN), ("fit", RETAIN))
    }
    ev = Evidence({"original": Table(-1.0), "unlearned": Table(1.0), "oracle": Table(1.0)}, handles)
    return {s.name.removeprefix("retrieval/"): s for s in Retrieval().score_of(ev)}


def test_images_find_any_text_that_says_the_same():
    """Best texts: 1 (says the same as 0: hit), 2 (miss), 0 (miss); of what is kept 1 (miss) and 0 (miss)."""
    assert isinstance(Table(1.0), Matches)
    found = scores()
    assert found["image-to-text/top1/forget"].value == pytest.approx(1 / 3)
    assert found["image-to-text/top1/retain"].value == 0
    assert found["image-to-text/top5/forget"].value == 1  # five of four texts are all of them
    assert found["image-to-text/top1/forget"].n == 3
    assert found["image-to-text/top1/forget"].original == pytest.approx(1 / 3)  # worst texts: 3, 0 (hit), 3


def test_texts_find_their_images_among_those_to_be_forgotten_and_those_to_be_kept():
    """Columns over all five images. Texts 0 and 1 ask for images 0 and 1, text 2 for 2 and 3, text 3 for 4.

    Best image of text 0: 4 (miss), of 1: 0 (hit), of 2: 1 (miss), of 3: 1 (miss).
    """
    found = scores()
    assert (
        found["text-to-image/top1/forget"].value == pytest.approx(1 / 3)
        and found["text-to-image/top1/forget"].n == 3
    )
    assert found["text-to-image/top1/retain"].value == 0 and found["text-to-image/top1/retain"].n == 2
    assert found["text-to-image/top5/retain"].value == 1


def test_every_score_has_an_interval_and_the_oracle_beside_it():
    for score in scores().values():
        assert score.low < score.high and score.interval == "wilson 95 %"
        assert score.reference == score.value


def test_among_best_against_a_plain_loop():
    rng = torch.Generator().manual_seed(0)
    table, right = torch.rand(30, 7, generator=rng), torch.rand(30, 7, generator=rng) < 0.2
    for k in (1, 3, 9):
        loop = [any(mask[j] for j in sorted(range(7), key=lambda j: -row[j])[:k])
                for row, mask in zip(table.tolist(), right.tolist(), strict=True)]  # fmt: skip
        assert among_best(table, right, k).tolist() == loop
