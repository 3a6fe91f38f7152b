"""Checks of a subject: that its clones are its own, and that each verb gives what its protocol promises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from unlearn import filling
from unlearn import subject as verbs
from unlearn.data import Batch, Handle
from unlearn.registry import offers, protocol, protocols, subjects
from unlearn.runtime import Run
from unlearn.subject import mode
from unlearn.testing.adapter_checks import check_adapts, check_attends, check_cross_attends
from unlearn.testing.declared_checks import check_file_name, check_listing, check_registered, check_summary
from unlearn.testing.tiny import CPU, TINY, same, specimen, tensors
from unlearn.testing.verdicts import Named, demand, global_state, guarded, run_all

Make = Callable[[], tuple[Any, Handle]]


def check_subject(make: Make) -> None:
    """Runs every check of a subject.

    Args:
        make: Returns the subject, on the CPU, and a handle on at least four examples that it accepts.

    Raises:
        AssertionError: With one line for each failed check.
    """
    run_all(subject_checks(make), type(make()[0]).__name__)


def subject_class_checks(cls: type[Any]) -> Named:
    """Names and checks of a registered subject class; those of built-ins include their tiny instances."""
    yield "summary", partial(check_summary, cls)
    yield "registered", partial(check_registered, cls, subjects)
    yield "file-name", partial(check_file_name, cls, subjects)
    yield "listing", partial(check_listing, cls, subjects)
    for tiny in TINY.values():
        if cls.__module__.startswith("unlearn.") and tiny.kind == cls.name:
            yield f"offers[{tiny.name}]", partial(check_offers, cls.name, tiny.name)
            for name, check in _fitting(partial(_tiny, tiny.name), tiny.offers, cls.__name__):
                yield f"{name}[{tiny.name}]", check


def subject_checks(make: Make) -> Named:
    """Names and checks of a subject; which ones depends on the protocols that it offers."""
    subject = make()[0]
    yield from _fitting(make, lambda need: isinstance(subject, need), type(subject).__name__)


def check_offers(kind: str, name: str) -> None:
    """The protocols that tables read from the source are those that the object offers."""
    subject = specimen(name).subject
    real = {p for p in protocols() if isinstance(subject, protocol(p))}
    listed = set(offers(kind))
    demand(
        real == listed,
        f"the source of {kind!r} lists {sorted(listed - real)} in excess and lacks {sorted(real - listed)}; write every verb and attribute in the class itself",
    )


def check_module(make: Make) -> None:
    """There is a module with weights, and none of them is NaN."""
    subject, _ = make()
    demand(
        isinstance(subject.module, nn.Module),
        f"module is {type(subject.module).__name__}, not a torch module",
    )
    weights = list(subject.module.parameters())
    demand(bool(weights), "module has no parameters; nothing could be unlearned")
    demand(all(bool(p.isfinite().all()) for p in weights), "module has NaN or infinite weights")


def check_clone(make: Make) -> None:
    """A clone is equal, of the same type, and shares no weight or buffer of its module."""
    subject, _ = make()
    before, clone = tensors(subject), subject.clone()
    demand(
        type(clone) is type(subject),
        f"clone() returns {type(clone).__name__} instead of {type(subject).__name__}",
    )
    demand(same(tensors(clone), before), "clone() is not equal to what it was made from")
    with torch.no_grad():
        for t in (*clone.module.parameters(), *clone.module.buffers()):
            t.zero_()
    demand(
        same(tensors(subject), before), "clone() shares weights or buffers with the original; copy the module"
    )


def check_verbs_leave_no_trace(make: Make) -> None:
    """Loss, outputs, features and the like change no weight, mode or hook, and draw from no global generator."""
    subject, handle = make()
    batch = next(handle.batches(4))
    before, generators = tensors(subject), global_state()
    flags = {n: m.training for n, m in subject.module.named_modules()}
    with mode(subject.module, train=False):
        for verb in ("outputs", "features", "features_and_outputs", "layers", "loss"):
            if verb in dir(subject):
                getattr(subject, verb)(batch)
        for verb in ("loss", "relabeled_loss", "sample"):
            if verb in dir(subject):
                getattr(subject, verb)(batch, _rng(0))
    demand(same(tensors(subject), before), "a verb changes weights or buffers; only fit may")
    demand(
        {n: m.training for n, m in subject.module.named_modules()} == flags, "a verb changes a training flag"
    )
    demand(not any(m._forward_hooks for m in subject.module.modules()), "a verb leaves a hook behind")
    demand(global_state() == generators, "a verb draws from a global generator; draw from rng")


def check_loss(make: Make) -> None:
    """The loss has one value for each example, is finite, and reaches the weights."""
    subject, handle = make()
    for size in (1, 3):
        batch = next(handle.batches(size))
        _per_example(subject.loss(batch, _rng(0)), batch, "loss")
    subject.loss(batch, _rng(0)).mean().backward()
    demand(
        any(p.grad is not None and bool(p.grad.any()) for p in subject.module.parameters()),
        "the loss has no gradient in any weight; compute it from module",
    )


def check_loss_alone(make: Make) -> None:
    """An example's loss without a generator is its own: the same whatever else is in the batch."""
    subject, handle = make()
    with torch.no_grad(), mode(subject.module, train=False):
        whole = subject.loss(next(handle.batches(5)))
        alone = torch.cat([subject.loss(b) for b in list(handle.batches(1))[:5]])
    demand(
        torch.allclose(whole, alone, rtol=1e-4, atol=1e-5),
        f"losses of a batch are {whole.tolist()}, of its examples by themselves {alone.tolist()}; a loss must depend on its own row only",
    )


def check_relabeled(make: Make) -> None:
    """The relabelled loss has one value for each example, its own target, and its draw comes from rng."""
    subject, handle = make()
    batch = next(handle.batches(6))
    with mode(subject.module, train=False):
        a, b, c = (subject.relabeled_loss(batch, _rng(s)) for s in (0, 0, 1))
        plain = subject.loss(batch, _rng(0))
        _per_example(
            subject.relabeled_loss(next(handle.batches(1)), _rng(0)),
            next(handle.batches(1)),
            "relabeled_loss",
        )
    _per_example(a, batch, "relabeled_loss")
    demand(torch.equal(a, b), "relabeled_loss gives two values for one seed; draw from rng alone")
    demand(not torch.equal(a, c), "relabeled_loss does not depend on rng; draw the uninformed target from it")
    demand(
        not torch.allclose(a, plain),
        "relabeled_loss equals the loss; its target must carry no knowledge of the example",
    )
    a.mean().backward()
    demand(any(p.grad is not None for p in subject.module.parameters()), "relabeled_loss has no gradient")


def check_outputs(make: Make) -> None:
    """Outputs are a matrix with one row for each example."""
    subject, handle = make()
    for size in (1, 3):
        _rows(subject.outputs(next(handle.batches(size))), size, "outputs")


def check_features(make: Make) -> None:
    """Features are a matrix, and one pass for both gives what two passes give."""
    subject, handle = make()
    for size in (1, 3):
        batch = next(handle.batches(size))
        with torch.no_grad(), mode(subject.module, train=False):
            features, (again, out) = subject.features(batch), subject.features_and_outputs(batch)
        _rows(features, size, "features")
        _rows(out, size, "features_and_outputs")
        demand(torch.allclose(features, again), "features and features_and_outputs disagree on the features")
        if isinstance(subject, verbs.Predicts):
            with torch.no_grad(), mode(subject.module, train=False):
                demand(
                    torch.allclose(out, subject.outputs(batch)), "outputs and features_and_outputs disagree"
                )


def check_classifies(make: Make) -> None:
    """Outputs have one column for each class."""
    subject, handle = make()
    found = subject.outputs(next(handle.batches(2))).shape[1]
    demand(found == subject.classes, f"outputs have {found} columns, but classes is {subject.classes}")


def check_matches(make: Make) -> None:
    """Each text of the bank says what it says itself, there is an output for each, and cosines are cosines."""
    subject, data = make()
    batch = next(data.batches(4))
    demand(
        bool(subject.meant(subject.texts).diagonal().all()),
        "meant() denies that a text of the bank says the same as itself",
    )
    with torch.no_grad(), mode(subject.module, train=False):
        cosines, outputs = subject.cosines(batch), subject.outputs(batch)
    _per_example(cosines, batch, "cosines()")
    demand(bool((cosines.abs() <= 1 + 1e-4).all()), "cosines() gives more than 1; divide by both norms")
    demand(
        outputs.shape[1] == len(subject.texts), "outputs() does not give one score for each text of the bank"
    )


def check_layers(make: Make) -> None:
    """Layers are modules of the subject that own weights, each once."""
    subject, handle = make()
    found = subject.layers(next(handle.batches(2)))
    owners = {m for m in subject.module.modules() if next(m.parameters(recurse=False), None) is not None}
    demand(len(set(found)) == len(found), "layers names a module twice")
    demand(
        bool(found) and set(found) <= owners,
        "layers names a module without weights of its own, or a stranger",
    )


def check_fresh(make: Make) -> None:
    """An untrained model depends on the seed alone and leaves the original as it was."""
    subject, _ = make()
    before = tensors(subject)
    a, b, c = (tensors(subject.fresh(_rng(s))) for s in (0, 0, 1))
    demand(same(a, b), "fresh gives two models for one seed; draw the weights from rng alone")
    demand(not same(a, c), "fresh gives one model for two seeds; draw the weights from rng")
    demand(same(tensors(subject), before), "fresh changes the original; work on a copy")


def check_fit(make: Make) -> None:
    """Training changes the weights, depends on the seed alone, and leaves modes and gradients in order."""
    made = []
    for seed in (0, 0, 1):
        subject, handle = make()
        before = tensors(subject)
        flags = [m.training for m in subject.module.modules()]
        subject.fit(handle, Run(seed, CPU))
        demand([m.training for m in subject.module.modules()] == flags, "fit leaves modules in another mode")
        demand(all(p.grad is None for p in subject.module.parameters()), "fit leaves gradients behind")
        made.append(tensors(subject))
        demand(not same(made[-1], before), "fit changes nothing")
    demand(same(made[0], made[1]), "fit gives two models for one seed; draw from run.rng alone")
    demand(not same(made[0], made[2]), "fit gives one model for two seeds; shuffle with run.rng")


def check_denoises(make: Make) -> None:
    """Prediction, conditioning and trajectory have the shapes that they promise; parts belong to the module."""
    subject, handle = make()
    for size in (1, 3):
        batch = next(handle.batches(size))
        cond = subject.encode(batch)
        z, t = subject.trajectory(cond, 0, 2.0, _rng(0))
        demand(t.shape == (size,), f"trajectory returns times of shape {tuple(t.shape)}, not ({size},)")
        for c in (cond, subject.null(size)):
            out = subject.predict(z, t, c)
            demand(
                out.shape == z.shape,
                f"predict maps {tuple(z.shape)} to {tuple(out.shape)}; the shapes must agree",
            )
    one, two, other = (subject.trajectory(cond, 2, 2.0, _rng(s)) for s in (0, 0, 1))
    demand(torch.equal(one[0], two[0]), "trajectory gives two results for one seed; draw from rng alone")
    demand(not torch.equal(one[0], other[0]), "trajectory does not depend on rng")
    demand(bool((one[1] < t).all()), "trajectory does not come closer to time 0 with more steps")
    own = {id(p) for p in subject.module.parameters()}
    for name, part in subject.parts().items():
        weights = list(part.parameters())
        demand(bool(weights), f"the part {name!r} has no weights")
        demand(
            {id(p) for p in weights} <= own,
            f"the part {name!r} has weights outside module, which clones may share",
        )


def check_generates(make: Make) -> None:
    """One sample for each row, drawn from rng."""
    subject, handle = make()
    for size in (1, 3):
        batch = next(handle.batches(size))
        with torch.no_grad(), mode(subject.module, train=False):
            a, b, c = (subject.sample(batch, _rng(s)) for s in (0, 0, 1))
        demand(len(a) == size, f"sample returns {len(a)} samples for {size} rows")
        demand(torch.equal(a, b), "sample gives two results for one seed; draw from rng alone")
        demand(not torch.equal(a, c), "sample does not depend on rng")


def check_encodes(make: Make) -> None:
    """What is represented are the features, and it has a gradient to the encoder's weights alone."""
    subject, handle = make()
    batch = next(handle.batches(2))
    with mode(subject.module, train=False):
        z = subject.represent(batch.x)
        demand(
            torch.equal(z, subject.features(batch)), "represent(x) is not what features gives for the same x"
        )
        z.sum().backward()
    inside = {p for m in subject.encoder() for p in m.parameters(recurse=False)}
    reached = {n for n, p in subject.module.named_parameters() if p.grad is not None and p not in inside}
    demand(
        not reached, f"represent(x) depends on {', '.join(sorted(reached))}, which encoder() does not hold"
    )
    demand(bool(inside), "encoder() holds no weights; name a decoder behind the first weights")


def check_next_token(make: Make) -> None:
    """Logits for each position, which no later token influences."""
    subject, handle = make()
    ids = next(handle.batches(2)).x
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % 2
    with torch.no_grad(), mode(subject.module, train=False):
        a, b = subject.next_logits(ids), subject.next_logits(other)
    demand(
        a.shape[:2] == ids.shape and a.ndim == 3,
        f"next_logits maps {tuple(ids.shape)} to {tuple(a.shape)}, not (B, L, V)",
    )
    demand(
        torch.allclose(a[:, :-1], b[:, :-1], atol=1e-5), "a later token changes the logits of earlier ones"
    )


CHECKS: dict[str, tuple[Any, Callable[[Make], None]]] = {
    "module": (verbs.Subject, check_module),
    "clone": (verbs.Subject, check_clone),
    "verbs-leave-no-trace": (verbs.Subject, check_verbs_leave_no_trace),
    "loss": (verbs.HasLoss, check_loss),
    "loss-alone": (verbs.HasLoss, check_loss_alone),
    "relabeled": (verbs.Relabels, check_relabeled),
    "outputs": (verbs.Predicts, check_outputs),
    "features": (verbs.Embeds, check_features),
    "classifies": (verbs.Classifies, check_classifies),
    "matches": (verbs.Matches, check_matches),
    "layers": (verbs.Layers, check_layers),
    "fresh": (verbs.Fresh, check_fresh),
    "fit": (verbs.Trains, check_fit),
    "denoises": (verbs.Denoises, check_denoises),
    "cross-attends": (verbs.CrossAttends, check_cross_attends),
    "adapts": (verbs.Adapts, check_adapts),
    "attends": (verbs.Attends, check_attends),
    "generates": (verbs.Generates, check_generates),
    "encodes": (filling.Encodes, check_encodes),
    "next-token": (verbs.NextToken, check_next_token),
}
"""Each check beside the protocol for which it is meant."""


def _fitting(make: Make, offered: Callable[[type], bool], title: str) -> Named:
    for name, (need, check) in CHECKS.items():
        if offered(need):
            yield name, guarded(partial(check, make), f"{name} of {title}")


def _tiny(name: str) -> tuple[Any, Handle]:
    spec = specimen(name).copy()
    return spec.subject, spec.sets["retain"]


def _rng(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def _per_example(values: Tensor, batch: Batch, verb: str) -> None:
    demand(
        values.shape == (len(batch),),
        f"{verb} has the shape {tuple(values.shape)} for {len(batch)} examples, not ({len(batch)},); do not take the mean",
    )
    demand(bool(values.isfinite().all()), f"{verb} is NaN or infinite")


def _rows(values: Tensor, n: int, verb: str) -> None:
    demand(
        values.ndim == 2 and len(values) == n,
        f"{verb} has the shape {tuple(values.shape)} for {n} examples, not ({n}, K)",
    )
