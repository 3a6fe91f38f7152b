"""Checks of a handle: order, completeness, shuffling, augmentation, ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Generator, Tensor

from unlearn.data import Batch, Handle
from unlearn.testing.verdicts import Named, demand, global_state, guarded, run_all

Make = Callable[[], Handle]


def check_handle(make: Make) -> None:
    """Runs every check of a handle.

    Args:
        make: Returns the handle; at least eight examples, so that two shuffles differ.

    Raises:
        AssertionError: With one line for each failed check.
    """
    run_all(handle_checks(make), "the handle")


def handle_checks(make: Make) -> Named:
    """Names and checks of a handle, see `check_handle`."""
    for name, check in CHECKS.items():
        yield name, guarded(partial(check, make), "the handle")


def check_order(make: Make) -> None:
    """Without a generator every pass has the same order and the same inputs."""
    handle = make()
    (i, x, _), (j, again, _) = _whole(handle.batches(3)), _whole(handle.batches(5))
    demand(
        torch.equal(i, j), "two passes without a generator differ in order; shuffle only when rng is given"
    )
    demand(
        torch.equal(x, again),
        "two passes without a generator differ in their inputs; augment only when asked",
    )


def check_every_row_once(make: Make) -> None:
    """A pass yields each example once, shuffled or not."""
    handle = make()
    plain = _whole(handle.batches(3))[0]
    mixed = _whole(handle.batches(3, _rng(0)))[0]
    demand(len(plain) == len(handle), f"len is {len(handle)}, but a pass yields {len(plain)} examples")
    demand(len(plain.unique()) == len(plain), "a pass yields an example twice")
    demand(
        torch.equal(plain.sort().values, mixed.sort().values),
        "a shuffled pass does not yield the same examples as a plain one",
    )


def check_ragged(make: Make) -> None:
    """Batches have the size that was asked for; only the last may be smaller, and it is not dropped."""
    handle = make()
    n = len(handle)
    for size in (1, n - 1, n, n + 1):
        sizes = [len(b) for b in handle.batches(size)]
        whole, rest = divmod(n, size)
        wanted = [size] * whole + [rest] * (rest > 0)
        demand(sizes == wanted, f"batches({size}) of {n} examples have the sizes {sizes}, not {wanted}")


def check_shuffles(make: Make) -> None:
    """A generator shuffles; its seed decides the order."""
    handle = make()
    plain, a, b, c = (_whole(handle.batches(3, g))[0] for g in (None, _rng(0), _rng(0), _rng(1)))
    demand(torch.equal(a, b), "the same seed gives two orders; draw the order from rng alone")
    demand(not torch.equal(a, c), "two seeds give the same order; draw the order from rng")
    demand(not torch.equal(a, plain) or not torch.equal(c, plain), "a generator does not shuffle")


def check_augments(make: Make) -> None:
    """Inputs are changed only where augmentation is asked for and a generator is given."""
    handle = make()
    plain = _sorted(handle.batches(3))
    demand(
        torch.equal(_sorted(handle.batches(3, augment=True))[0], plain[0]),
        "augment=True without a generator changes inputs; that is not reproducible",
    )
    demand(
        torch.equal(_sorted(handle.batches(3, _rng(0)))[0], plain[0]),
        "a generator alone changes inputs; augment only where augment=True",
    )
    one, two = (_sorted(handle.batches(3, _rng(0), augment=True))[0] for _ in range(2))
    demand(torch.equal(one, two), "the same seed gives two augmentations; draw them from rng alone")


def check_ids(make: Make) -> None:
    """An id names the same example in every pass, with its own input and target."""
    handle = make()
    x, y = _sorted(handle.batches(3))
    x_mixed, y_mixed = _sorted(handle.batches(4, _rng(0)))
    demand(
        torch.equal(x, x_mixed) and torch.equal(y, y_mixed),
        "index does not follow its example when a pass is shuffled; permute x, y and index alike",
    )


def check_passes(make: Make) -> None:
    """Two passes at a time do not disturb each other."""
    handle = make()
    alone = _whole(handle.batches(3))[0]
    first = handle.batches(3)
    head = next(first)
    _whole(handle.batches(2, _rng(0)))
    rest = torch.cat([head.index, *(b.index for b in first)])
    demand(torch.equal(alone, rest), "a pass is disturbed by another one; keep no position in the handle")


def check_only(make: Make) -> None:
    """A choice by ids holds those of its own examples that were named, and no other."""
    handle = make()
    own = _whole(handle.batches(3))[0].unique()
    named = torch.cat([own[::3], own.max()[None] + 1000])
    part = handle.only(named)
    found = _whole(part.batches(3))[0].sort().values
    demand(
        torch.equal(found, own[::3]) and len(part) == len(own[::3]),
        f"only gives the ids {found.tolist()} where {own[::3].tolist()} were named and are its own",
    )


def check_globals(make: Make) -> None:
    """The global generators are left alone."""
    handle = make()
    before = global_state()
    _whole(handle.batches(3, _rng(0), augment=True))
    demand(global_state() == before, "a pass draws from a global generator; draw from rng alone")


CHECKS: dict[str, Callable[[Make], None]] = {
    "order": check_order,
    "every-row-once": check_every_row_once,
    "ragged": check_ragged,
    "shuffles": check_shuffles,
    "augments-with-generator-only": check_augments,
    "ids": check_ids,
    "independent-passes": check_passes,
    "only": check_only,
    "globals": check_globals,
}
"""What a handle must keep to, by name."""


def _rng(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def _whole(batches: Iterator[Batch]) -> tuple[Tensor, Tensor, Tensor]:
    found = list(batches)
    return (
        torch.cat([b.index for b in found]),
        torch.cat([b.x for b in found]),
        torch.cat([b.y for b in found]),
    )


def _sorted(batches: Iterator[Batch]) -> tuple[Tensor, Tensor]:
    index, x, y = _whole(batches)
    order = index.argsort()
    return x[order], y[order]
