"""Models that methods are lent, made of linear layers, for tests that work their answers out by hand."""

import torch
from torch import nn

from unlearn.data import Counted, Resident, Split
from unlearn.ops.peers import Lent
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier

M, N, C, D = 6, 10, 3, 4
FORGET = torch.tensor([2, 5, 7])
SEEN = torch.rand(M, N, generator=torch.Generator().manual_seed(4)) < 0.5


def net(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(D, C)


def normed(seed, *, train=True):
    """A model whose answers differ between the modes, by batch norm and by dropout; it comes in train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(D, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, C))
        made[1](3 * torch.randn(50, 5) + 1)
    return made.train(train)


def data(kind="half-in", models=M, make=net):
    """A split of ten rows, of which three are forgotten, with models, linear ones by default; label-free sets."""
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(8))
    whole = Resident(Arrays(x, torch.zeros(N, dtype=torch.long)))
    kept = torch.tensor([i for i in range(N) if i not in FORGET.tolist()])
    sets = [Counted(whole.take(rows), unlabeled="it", name="set") for rows in (FORGET, kept)]
    seen = SEEN[:models] if kind == "half-in" else torch.isin(torch.arange(N), kept).expand(models, -1)
    pool = Lent([Classifier(make(100 + k), C) for k in range(models)], torch.arange(N), seen, 3.5)
    return Split(*sets, None, None, None, pool=pool), x


def by_loops(x, scale, gone=(2, 5, 7), make=net):
    """f₀(x) − κ Σ_{i ∈ F} A[i, x] for one example, with plain numbers."""
    said = [make(100 + k)(x[None])[0].tolist() for k in range(M)]
    found = []
    for c in range(C):
        total = 0.0
        for i in gone:
            saw = [said[m][c] for m in range(M) if SEEN[m, i]]
            others = [said[m][c] for m in range(M) if not SEEN[m, i]]
            total += sum(saw) / len(saw) - sum(others) / len(others)
        found.append(make(0)(x[None])[0].tolist()[c] - scale * total)
    return found
