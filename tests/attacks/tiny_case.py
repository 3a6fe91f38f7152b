"""A case on the tiny text-to-image model in float64, as an attack gets it."""

import torch

from unlearn.attack import Case
from unlearn.data import Batch, Resident
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.testing.tiny import specimen


def ids(*words):
    """Token ids of one prompt of eight tokens: begin, words, end, padding."""
    return [0, *words, *[1] * (7 - len(words))]


IDS = torch.tensor([ids(2), ids(5, 2), ids(2, 6)])
OTHERS = torch.tensor([ids(3), ids(5, 4), ids(6, 3)])


def case(seed=0, images=4, ids=IDS, reworded=()):
    """Prompts whose word is token 2, and images of noise that show it."""
    victim = specimen("unet").copy().subject
    victim.module.double().requires_grad_(False)
    rng = torch.Generator().manual_seed(9)
    x = torch.randn(images, 1, 8, 8, generator=rng, dtype=torch.float64)
    y = IDS[torch.arange(images) % len(IDS)]
    noise = torch.randn(len(ids), 1, 8, 8, generator=rng, dtype=torch.float64)
    others = torch.tensor(reworded, dtype=torch.long).reshape(-1, *ids.shape)
    real = Resident(Arrays(x, y))
    return Case(victim, victim.clone(), ids, OTHERS, others, noise, real, lambda _: None, Run(seed),
                torch.zeros(len(ids), dtype=torch.bool))  # fmt: skip


def draws(case, size):
    """The rows, times, noisy latents and targets of one step after another, from a generator of their own."""
    rng = torch.Generator().manual_seed(case.run.seed)
    batch = next(case.real.batches(len(case.real)))
    while True:
        rows = torch.randint(0, len(batch), (size,), generator=rng)
        t = torch.randint(0, 1000, (size,), generator=rng)
        e = torch.randn(size, 1, 8, 8, generator=rng, dtype=torch.float32).double()
        a = case.victim.scheduler.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
        yield batch.y[rows], t, a.sqrt() * batch.x[rows] + (1 - a).sqrt() * e, e


def loss(subject, case, said=None, n=256):
    """Mean error of the predicted noise over the images of a case, at the same n draws for every model."""
    y, t, z, e = next(draws(case, n))
    with torch.no_grad():
        cond = subject.encode(Batch(z, y, t)) if said is None else said(y)
        return float((subject.predict(z, t, cond) - e).square().mean())
