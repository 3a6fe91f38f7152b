"""Checks of a method: how its class is written, and what it does to each tiny subject that it fits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch

from unlearn.deletable import Sliced
from unlearn.errors import Mismatch, SealedError, UnlearnError
from unlearn.method import Method, requires
from unlearn.registry import protocol, protocols
from unlearn.runtime import Run, seeded_globals
from unlearn.subject import Embeds, Trains
from unlearn.testing.direction import check_direction, check_retain
from unlearn.testing.method_class_checks import check_signature, class_checks
from unlearn.testing.runs import Outcome, outcome, shell
from unlearn.testing.tiny import CPU, Tiny, fitting, same, specimen, tensors
from unlearn.testing.verdicts import Check, Named, demand, guarded, run_all

Cls = type[Method[Any]]
MISMATCH_WORDS = 6  # no sentence that says what is needed is shorter


def check_method(cls: Cls) -> None:
    """Runs every check of a method.

    Raises:
        AssertionError: With one line for each failed check.
    """
    run_all(method_checks(cls), cls.__name__)


def method_checks(cls: Cls) -> Named:
    """Names and checks of a method: those of its class, then `check[subject]` for each subject it fits."""
    yield from class_checks(cls)
    if not _proper(cls):
        return
    cells = [t for t in fitting(requires(cls)) if "statistics" not in cls().reads() or t.offers(Embeds)]
    if cells:
        yield "accepts-some", guarded(partial(check_accepts, cls, cells), cls.__name__)
    for tiny in cells:
        for name, check in cell_checks(cls, tiny):
            yield f"{name}[{tiny.name}]", check


def cell_checks(cls: Cls, tiny: Tiny) -> Named:
    """Names and checks of a method on one tiny subject."""
    one = partial(_on, cls, tiny)
    for name, check in RUN_CHECKS.items():
        yield name, one(check)
    sizes = batch_knobs(cls)
    if sizes:
        yield "batch-of-one", one(check_batch_of_one)
        yield "ragged", one(check_ragged)
    if cls.exact and tiny.offers(Trains):
        yield "exact", one(check_exact)
    if tiny.trained and cls.uses:
        yield "changes", one(check_changes)
        if sizes:
            yield "partial-batch", one(check_partial_batch)
        yield "retain-survives", one(check_retain)
        if "class" not in cls.expected_failures:
            yield "direction", one(check_direction)


def check_accepts(cls: Cls, cells: list[Tiny]) -> None:
    """It may refuse networks that lack the layers it works on, but not every one."""
    refused = []
    for tiny in cells:
        try:
            _base(cls, tiny)
        except Mismatch as err:
            refused.append(str(err))
        except Exception:
            return  # told by the checks of that subject
        else:
            return
    demand(
        False,
        f"{cls.__name__} refuses every tiny subject that offers {requires(cls).__name__}: {refused[0]}",
    )


def check_runs(cls: Cls, tiny: Tiny) -> None:
    """The defaults run on a tiny subject."""
    _base(cls, tiny)


def check_same_verbs(cls: Cls, tiny: Tiny) -> None:
    """What comes back offers every protocol that went in."""
    left, done = specimen(tiny.name).subject, _base(cls, tiny).done
    for name in protocols():
        verbs = protocol(name)
        demand(
            not isinstance(left, verbs) or isinstance(done, verbs),
            f"{cls.__name__} returns {type(done).__name__}, which no longer offers {name}; return the subject or a wrapper with the same verbs",
        )


def check_same_seed(cls: Cls, tiny: Tiny) -> None:
    """The same seed gives the same weights, bit for bit."""
    a, b = (outcome(cls, tiny.name, knobs=_brief(cls), how=how) for how in ("", "again"))
    demand(
        same(_made(a), _made(b)),
        f"{cls.__name__} gives other weights for the same seed; draw from run.rng alone and keep no state",
    )


def check_other_seed(cls: Cls, tiny: Tiny) -> None:
    """Another seed gives other weights, unless the method declares that it does not draw.

    Batches are smaller than the forget set: in one batch of all, a shuffle makes no difference.
    """
    knobs = (*_resized(cls, _nearly_all(tiny)), *_brief(cls))
    a, b = (outcome(cls, tiny.name, seed, knobs, "small") for seed in (0, 1))
    equal = same(_made(a), _made(b))
    if cls.deterministic:
        demand(
            equal,
            f"{cls.__name__} declares deterministic = True, but two seeds differ; remove the declaration",
        )
    else:
        demand(
            not equal,
            f"{cls.__name__} gives the same weights for two seeds; shuffle with run.rng, or declare deterministic = True",
        )


def check_globals(cls: Cls, tiny: Tiny) -> None:
    """The global generators stay where they were, the second time at least: a library may draw while it is imported."""
    kept = _base(cls, tiny).globals_kept or outcome(cls, tiny.name, how="again").globals_kept
    demand(kept, f"{cls.__name__} draws from a global generator; draw from run.rng")


def check_finite(cls: Cls, tiny: Tiny) -> None:
    """No weight or buffer is NaN or infinite."""
    bad = _not_finite(_base(cls, tiny))
    demand(
        not bad,
        f"{cls.__name__} leaves NaN or infinite values in {', '.join(bad[:3])}; lower its default step size or clip",
    )


def check_reads_declared(cls: Cls, tiny: Tiny) -> None:
    """It reads only what it declares."""
    try:
        outcome(cls, tiny.name, knobs=_brief(cls), how="sealed")
    except SealedError as err:
        raise AssertionError(str(err)) from None


def check_declared_read(cls: Cls, tiny: Tiny) -> None:
    """It reads all that it declares."""
    read = _base(cls, tiny).read
    unread = sorted(n for n in cls().reads() if not read.get(n.partition(".")[0]))
    demand(
        not unread, f"{cls.__name__} declares {', '.join(unread)} but never reads it; remove it from `uses`"
    )


def check_inputs(cls: Cls, tiny: Tiny) -> None:
    """The data stay as they were."""
    spoilt = sorted(n for n, kept in _base(cls, tiny).data_kept.items() if not kept)
    demand(not spoilt, f"{cls.__name__} changes the data of {', '.join(spoilt)} in place; work on a copy")


def check_original(cls: Cls, tiny: Tiny) -> None:
    """The original stays as it was, down to what its clones share with it."""
    out = _base(cls, tiny)
    demand(
        same(out.original, out.original_before),
        f"{cls.__name__} changes the original through tensors that it shares with its clone; change subject.module only",
    )


def check_gradients(cls: Cls, tiny: Tiny) -> None:
    """No gradient is left behind."""
    _shell_kept(
        cls,
        tiny,
        "gradients",
        "leaves gradients behind; call zero_grad(set_to_none=True) after the last step",
    )


def check_flags(cls: Cls, tiny: Tiny) -> None:
    """Every module is in the mode in which it was."""
    _shell_kept(
        cls, tiny, "training", "leaves modules in another mode; use `with mode(subject.module, train=...)`"
    )


def check_hooks(cls: Cls, tiny: Tiny) -> None:
    """No hook is left behind."""
    advice = "leaves hooks behind; use `with watching(...)` of unlearn.ops.hooks, or remove them"
    _shell_kept(cls, tiny, "hooks", advice)
    _shell_kept(cls, tiny, "tensor hooks", advice)


def check_requires_grad(cls: Cls, tiny: Tiny) -> None:
    """Every parameter wants a gradient if and only if it did."""
    _shell_kept(cls, tiny, "requires_grad", "leaves parameters frozen or unfrozen; restore requires_grad")


def check_device_and_dtype(cls: Cls, tiny: Tiny) -> None:
    """Weights stay on their device and of their type."""
    out = _base(cls, tiny)
    after = out.module.state_dict()
    for name, before in specimen(tiny.name).subject.module.state_dict().items():
        now = after.get(name, before)
        demand(
            now.dtype == before.dtype and now.device == before.device,
            f"{cls.__name__} turns {name} from {before.dtype} on {before.device} into {now.dtype} on {now.device}; cast copies only",
        )


def check_stream(cls: Cls, tiny: Tiny) -> None:
    """Data kept on the device and data streamed to it give the same weights, bit for bit."""
    a, b = (outcome(cls, tiny.name, knobs=_brief(cls), how=how) for how in ("", "streamed"))
    demand(
        same(_made(a), _made(b)),
        f"{cls.__name__} gives other weights where data are streamed; use only len and batches of a handle",
    )


def check_batch_of_one(cls: Cls, tiny: Tiny) -> None:
    """It works one example at a time."""
    _sized(cls, tiny, 1)


def check_ragged(cls: Cls, tiny: Tiny) -> None:
    """It works where the last forget batch holds a single example."""
    _sized(cls, tiny, _nearly_all(tiny))


def check_partial_batch(cls: Cls, tiny: Tiny) -> None:
    """It uses batches that are smaller than asked for: a set smaller than one batch is still unlearned."""
    out = _sized(cls, tiny, 1 + len(specimen(tiny.name).sets["retain"]), how="")
    demand(
        not same(_made(out), out.clone_before),
        f"{cls.__name__} does nothing where no batch is full; do not drop the last batch",
    )


def check_changes(cls: Cls, tiny: Tiny) -> None:
    """It does something."""
    out = _base(cls, tiny)
    demand(
        not same(_made(out), out.clone_before),
        f"{cls.__name__} with its defaults changes not one weight; choose defaults that act",
    )


def check_exact(cls: Cls, tiny: Tiny) -> None:
    """An exact method gives the weights of a twin that was trained without the forget set, bit for bit."""
    if Sliced in requires(cls).__mro__:
        check_exact_stages(cls, tiny)
        return
    spec = specimen(tiny.name).copy()
    with seeded_globals(1234, CPU):
        run = Run(0, CPU)
        twin = spec.subject.fresh(run.rng)
        twin.fit(spec.sets["retain"], run)
    demand(
        same(dict(_base(cls, tiny).module.state_dict()), dict(twin.module.state_dict())),
        f"{cls.__name__} declares exact = True, but differs from subject.fresh(run.rng) fitted on the retain set with the same run",
    )


def check_exact_stages(cls: Cls, tiny: Tiny) -> None:
    """Every tensor of a sliced system is erased or that of a twin trained without the forget set by the same seeds.

    When the missing stages are trained as well, nothing differs.
    """
    spec = specimen(tiny.name).copy()
    twin, done = spec.subject.clone(), cast(Any, _base(cls, tiny).subject).clone()
    twin.again(spec.sets["retain"], Run(0, CPU))
    made, wanted = dict(done.module.state_dict()), dict(twin.module.state_dict())
    kept = (n for n, t in made.items() if t.is_floating_point() and t.shape == wanted[n].shape)
    other = [n for n in kept if not bool(((made[n] == wanted[n]) | (made[n] == 0)).all())]
    demand(
        not other,
        f"{cls.__name__} declares exact = True, but {', '.join(other[:3])} hold what a system trained without the forget set by the same seeds does not",
    )
    done.resume(spec.sets["retain"], Run(0, CPU))
    demand(
        same(dict(done.module.state_dict()), wanted),
        f"{cls.__name__} declares exact = True, but with its missing stages trained the system differs from one trained without the forget set by the same seeds",
    )


RUN_CHECKS: dict[str, Callable[[Cls, Tiny], None]] = {
    "runs": check_runs,
    "same-verbs": check_same_verbs,
    "same-seed": check_same_seed,
    "other-seed": check_other_seed,
    "globals": check_globals,
    "finite": check_finite,
    "reads-declared-only": check_reads_declared,
    "declared-is-read": check_declared_read,
    "inputs": check_inputs,
    "original": check_original,
    "gradients": check_gradients,
    "flags": check_flags,
    "hooks": check_hooks,
    "requires-grad": check_requires_grad,
    "device-and-dtype": check_device_and_dtype,
    "stream": check_stream,
}
"""What one call must leave in order, by name."""


def batch_knobs(cls: Cls) -> dict[str, int]:
    """The fields that say how many examples make a batch, with the smallest value that each allows."""
    found = [k for k in cls.knobs() if k.type is int and k.name.endswith("batch_size")]
    return {k.name: int(k.bounds.get("ge", k.bounds.get("gt", 0) + 1)) for k in found}


def _proper(cls: Cls) -> bool:
    """Whether the class can be built and called at all; what is wrong else is said by other checks."""
    try:
        cls()
        check_signature(cls)
    except (UnlearnError, AssertionError, NameError, TypeError):
        return False
    return True


def _on(cls: Cls, tiny: Tiny, check: Callable[[Cls, Tiny], None]) -> Check:
    def run() -> None:
        try:
            check(cls, tiny)
        except Mismatch as err:
            demand(
                "\n" not in str(err) and len(str(err).split()) >= MISMATCH_WORDS,
                f"{cls.__name__} refuses {tiny.name} with {str(err)!r}; say in one line what it needs and what to do",
            )

    return guarded(run, f"{cls.__name__} on {tiny.name}")


def _base(cls: Cls, tiny: Tiny) -> Outcome:
    return outcome(cls, tiny.name)


def _made(out: Outcome) -> dict[str, torch.Tensor]:
    """All tensors of what came back."""
    return tensors(out.subject)


def _sized(cls: Cls, tiny: Tiny, size: int, how: str = "small") -> Outcome:
    """A brief call with another batch size, or the nearest that is allowed, and smaller steps for smaller batches."""
    knobs = (*_resized(cls, size), *_brief(cls))
    out = outcome(cls, tiny.name, knobs=knobs, how=how)
    bad = _not_finite(out)
    said = ", ".join(f"{k}={v}" for k, v in knobs)
    demand(not bad, f"{cls.__name__} leaves NaN or infinite values in {', '.join(bad[:3])} with {said}")
    return out


def _nearly_all(tiny: Tiny) -> int:
    """A batch size with which the last forget batch holds a single example."""
    return len(specimen(tiny.name).sets["forget"]) - 1


def _resized(cls: Cls, size: int) -> tuple[tuple[str, Any], ...]:
    """Fields for another batch size, or the nearest that is allowed.

    Steps shrink in proportion to the batch, so that defaults meant for large batches do not diverge.
    """
    value = cls()
    sizes = {name: max(size, least) for name, least in batch_knobs(cls).items()}
    share = min([1.0, *(size / getattr(value, name) for name, size in sizes.items())])
    rates = [k.name for k in cls.knobs() if k.type is float and (k.name == "lr" or k.name.endswith("_lr"))]
    return (*sizes.items(), *((name, share * getattr(value, name)) for name in rates))


def _brief(cls: Cls) -> tuple[tuple[str, Any], ...]:
    """As few iterations or epochs as the method would be tuned with, for checks that do not need it to work."""
    value = cls()
    low = {k.name: k.search[0] for k in cls.knobs() if k.name in ("iterations", "epochs") and k.search}
    return tuple((name, max(1, int(n))) for name, n in low.items() if n < getattr(value, name))


def _not_finite(out: Outcome) -> list[str]:
    return [n for n, t in _made(out).items() if t.is_floating_point() and not t.isfinite().all()]


def _shell_kept(cls: Cls, tiny: Tiny, what: str, advice: str) -> None:
    """Compares one aspect of what surrounds the weights with how it was; a new module has a mode of its own."""
    out = _base(cls, tiny)
    if what == "training" and out.module is not out.given.module:
        return
    before, after = out.shell_before[what], shell(out.module)[what]
    moved = [n or "the module" for n, v in after.items() if n in before and before[n] != v]
    demand(not moved, f"{cls.__name__} {advice} (found at {', '.join(moved[:3])})")
