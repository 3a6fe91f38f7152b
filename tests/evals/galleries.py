"""Drawings worked by hand: the first pixels say what judges see, the last hold colours."""

import torch

from unlearn.gallery import Gallery
from unlearn.metric import Evidence

# (object, style) asked for; object 3 and style 2 stand for nothing
ASKED = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
SEEN = {
    "original": [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 1)],
    "unlearned": [(1, 0), (3, 1), (1, 0), (1, 0), (2, 0), (2, 1)],
    "oracle": [(1, 0), (2, 1), (1, 0), (1, 1), (2, 0), (2, 1)],
}
SURE = 0.8
"""Probability that a judge gives to what it sees."""


class Painter:
    """Stands for a model that draws."""

    module = torch.nn.Linear(1, 1)

    def clone(self):
        return self

    def sample(self, batch, rng):
        raise NotImplementedError

    draw = sample


def painted(seen, colour=None):
    """One image (3, 4, 4) for each; the last row of pixels has the colours (N, 3), black by default."""
    images = torch.zeros(len(seen), 3, 4, 4)
    images[:, :2, 0, 0] = torch.tensor(seen).float()
    if colour is not None:
        images[:, :, 3] = torch.tensor(colour, dtype=torch.float32)[:, :, None]
    return images


def judge(axis, classes):
    """Sees what a pixel says, with probability `SURE`; NaN in, NaN out."""

    def look(images):
        at = images[:, axis, 0, 0]
        rest = torch.full((len(images), classes), (1 - SURE) / (classes - 1))
        found = rest.scatter(1, at.nan_to_num(0.0).long()[:, None], SURE).log()
        return found + 0 * images.flatten(1).sum(1, keepdim=True)

    return look


def gallery(**changes):
    asked = torch.tensor(ASKED).T
    made = {
        "captions": tuple(f"caption {k}" for k in range(len(ASKED))),
        "asked": {"object": asked[0], "style": asked[1]},
        "names": {"object": ("a", "b", "c"), "style": ("x", "y")},
        "judges": {"object": judge(0, 4), "style": judge(1, 3)},
        "axis": "object",
        "target": 0,
        "features": {"colours": lambda images: (images[:, :, 3:],)},
    }
    return Gallery(**{**made, **changes})


def evidence(images=None, shown=None, without=(), **rest):
    """Evidence of painters; `images` replaces what some of them drew."""
    drawn = {**{who: painted(seen) for who, seen in SEEN.items()}, **(images or {})}
    who = [w for w in drawn if w not in without]
    return Evidence(dict.fromkeys(who, Painter()), {}, gallery=shown or gallery(),
                    cache=lambda w, _where, _make: {"images": drawn[w]}, **rest)  # fmt: skip


def scores(metric, ev):
    return {s.name: s for s in metric.score_of(ev)}
