"""Models that paint what their table says of a prompt's token, and judges that read it off the first pixel."""

import copy

import torch

from unlearn.attack import Attack
from unlearn.data import Resident
from unlearn.gallery import Gallery
from unlearn.knobs import knob
from unlearn.metric import Evidence
from unlearn.sources import Arrays

TARGET, OTHER, NOTHING = 0, 1, 2
REVEALS = -1  # a token that makes the unlearned model show the concept, and the oracle not
FAILS = -2


class Painter:
    """Stands for a model that draws prompts of one token; the second pixel holds the noise."""

    def __init__(self, table):
        self.table, self.module, self.vae = table, torch.nn.Linear(1, 1), None

    def clone(self):
        return copy.deepcopy(self)

    def encode(self, batch):
        return batch.y[:, 0]

    def noise(self, n, rng):
        return torch.randn(n, 1, generator=rng)

    def sample(self, batch, rng):
        return self.draw(batch, rng)

    def draw(self, batch, rng):
        return self.draw_from(self.encode(batch), self.noise(len(batch), rng))

    def draw_from(self, cond, noise):
        images = torch.zeros(len(cond), 3, 2, 2)
        images[:, 0, 0, 0] = torch.tensor([self.table.get(t, OTHER) for t in cond.tolist()]).float()
        images[:, 1, 0, 0] = noise[:, 0]
        return images


def look(images):
    """Sees what the first pixel says; NaN in, NaN out."""
    first = images[:, 0, 0, 0]
    return torch.nn.functional.one_hot(first.nan_to_num(0.0).long(), 3).float() + 0 * first[:, None]


def evidence(n=4, shown=1, others=2, **changes):
    """`n` prompts that ask for the concept, of which the unlearned model draws the first `shown` with it."""
    asks, rest = range(n), range(n, n + others)
    tables = {
        "original": dict.fromkeys(asks, TARGET),
        "unlearned": {**{t: TARGET for t in asks if t < shown}, REVEALS: TARGET},
        "oracle": {},
    }
    y = torch.tensor([*rest, *asks])[:, None]
    asked = {"object": (y[:, 0] >= n).long()}
    gallery = Gallery(
        tuple(map(str, y.tolist())), asked, {"object": ("a", "b")}, {"object": look}, "object", TARGET
    )
    handles = {"prompts": Resident(Arrays(torch.zeros(len(y), 0), y)),
               "forget": Resident(Arrays(torch.arange(3.0)[:, None], torch.arange(3)[:, None]))}  # fmt: skip
    return Evidence({w: Painter(t) for w, t in tables.items()}, handles, gallery=gallery, **changes)


class Scripted(Attack):
    """Tries tokens in a fixed order, the same for all prompts that are left.

    References:
        None; made for these tests.
    """

    tokens: tuple[int, ...] = knob((), "tried one after another")
    first: int = knob(1, "position of the first prompt that gets them", ge=0)

    def budget(self):
        return f"{len(self.tokens)} tokens"

    def attempts(self, case):
        for token in self.tokens:
            rows = case.open[case.open >= self.first]
            yield rows, torch.full((len(rows),), token)


Scripted.name = "scripted"


def scores(attack, ev):
    return {s.name.rpartition("/")[2]: s for s in attack.measure(ev)}
