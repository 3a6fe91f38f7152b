"""A user's own model and data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from unlearn.errors import BadData, BadValue, Mismatch
from unlearn.knobs import knob
from unlearn.ops.division import divide, limited
from unlearn.ops.given_oracle import GIVEN, given_oracle
from unlearn.ops.hooks import named
from unlearn.ops.loaders import Loaded, load, loaded
from unlearn.ops.photos import photo_patches
from unlearn.ops.pictures import Frame
from unlearn.ops.pretrained import is_configuration, load_classifier
from unlearn.ops.recipe import Function
from unlearn.ops.tables import Columns, in_memory
from unlearn.ops.user_file import UserFile
from unlearn.ops.weights import load_into
from unlearn.patch import weights_hash
from unlearn.provenance import digest
from unlearn.registry import scenarios
from unlearn.request import Request
from unlearn.scenario import Material, Part
from unlearn.scenarios._deletable import Deletable
from unlearn.sources import Pixels, Source, Transform, as_float
from unlearn.subject import Classifies, Subject, Trains, mode
from unlearn.subjects.classifier import Classifier, as_is, logits_of
from unlearn.subjects.regressor import Regressor

SURROGATES = 1000
STATS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@dataclass(frozen=True, slots=True)
class Own:
    """A user's transform, known by the hash of its file.

    Attributes:
        call: `transform(x)`, on a batch.
        source: Hash of the file.
    """

    call: Callable[..., Tensor]
    source: str

    def __call__(self, x: Tensor, rng: Generator | None) -> Tensor:
        """Model inputs, with shape (B, *)."""
        return self.call(x)

    def __repr__(self) -> str:
        return f"Own({self.source})"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a user gave.

    Attributes:
        given: The model.
        data: Training and test data.
        transform: Of the inputs.
        identity: Hash of the file that built it, if there is one.
    """

    given: Subject
    data: Loaded
    transform: Transform
    identity: str


@scenarios.register("custom")
class Custom(Deletable):
    """Your own model and data: a Python function, a transformers folder or a hub name.

    `model=mine.py:build` calls `build()`, which returns a subject or a plain `nn.Module`, alone (then `data`
    says where the data are) or with data: `(model, train, test)`. Data are `(x, y)` tensors or arrays, torch
    data sets of pairs, or tables of `datasets`; targets that are real numbers make a plain module a regressor, whose
    `unit` the file may name. The file may also define `fit(module, batches, seed)`, the
    training recipe, without which there is no oracle; `classes`, names; `groups`, the owner of each training
    example; `transform`, applied to batches. Otherwise `model` names an image classifier of transformers: a folder, also
    one of PEFT with an adapter, a hub name, or a `config.json`, to which `weights` gives the weights.

    With `deletable=s3t:5x4` or `sisa:5x4` the model is where the training of the original starts: give one that never
    saw these data, as one that was pre-trained on others. `fit` then gets a module that returns logits, and only trains
    what is free in it: for S3T in a transformer low-rank maps and the classifier.

    The test data must be unknown to the model: they are divided into validation data, data to fit attacks and
    data to score, so positions in the training data stay what they were.
    """

    default_request: ClassVar[str] = "random=0.1"
    given_oracle: ClassVar[str] = GIVEN
    modules: ClassVar[tuple[str, ...]] = ("unlearn.subjects.classifier", "unlearn.subjects.regressor")

    model: str = knob("", "FILE.py:FUNCTION, folder of a transformers image classifier, or hub name")
    data: str = knob("", "folder or hub name of the data, where the function returns none")
    weights: str = knob("", "file with the model's weights, where the function does not load them")
    retrained: str = knob("", "file with the weights of the same model, retrained without what is forgotten")
    head: str = knob("", "name of the last layer; empty to find it")
    train: bool = knob(False, "train the original by `fit` too, instead of taking the weights as they are")
    image_column: str = knob("", "column of the inputs; empty to find it")
    label_column: str = knob("", "column of the classes; empty to find it")
    group_column: str = knob("", "column that names the owner of each example")
    train_split: str = knob("train", "split that the model was trained on")
    test_split: str = knob("", "split that the model never saw; empty to find it")
    size: int = knob(0, "side to which images are scaled, in pixels; 0 keeps them or asks the model", ge=0)
    normalise: Literal["auto", "imagenet", "half", "none"] = knob(
        "auto", "channel means and deviations: auto asks the model, else pixels are only scaled to 0..1"
    )
    limit: int = knob(0, "training examples to use, stratified; 0 for all", ge=0)

    def material(self) -> Material:
        """See `Scenario.material`."""
        made = self._bundle
        test = made.data.test
        if test is None:
            raise BadData(
                "there are no test data; return (model, train, test), or name a split that the model never saw with test_split=NAME"
            )
        parts = divide(made.data.train, test, pretrained=True)
        start = [weights_hash(made.given.module.state_dict())] if self.deletable else []
        content = digest([made.identity, made.data.content, *start])
        surrogate = _surrogate(made.data.train.source)
        return Material(limited(parts[0], self.limit), *parts[1:], content, made.transform, surrogate)

    def subject(self, rng: Generator) -> Subject:
        """The model, newly initialised where there is a recipe to train it by; as it is where it is to be deletable.

        Raises:
            Mismatch: If a model that is no classifier, or has no recipe, is to be one from which examples can be deleted.
        """
        given = self._bundle.given
        if self.deletable:
            if not isinstance(given, Classifier) or given.recipe is None:
                raise Mismatch(
                    f"{self.model}: deletable={self.deletable} trains a classifier from its given weights on, and this is {'one without a recipe' if isinstance(given, Classifier) else type(given).__name__}; return a plain module that classifies, and define fit(module, batches, seed)"
                )
            start = replace(given.clone(), build=partial(copy.deepcopy, given.module))
            made: Subject = self.owned(start, rng)
            return made
        if isinstance(given, Trains) and given.recipe is not None:
            return given.fresh(rng)
        return given.clone()

    def original(self) -> Subject | None:
        """See `Scenario.original`."""
        if self.deletable:
            return None
        if not self.train:
            return self._bundle.given.clone()
        if not isinstance(self._bundle.given, Trains) or self._bundle.given.recipe is None:
            raise Mismatch(f"{self.model}: train=true needs a recipe; define fit(module, batches, seed)")
        return None

    def oracle(self, request: Request) -> Subject | None:
        """See `Scenario.oracle`."""
        return given_oracle(self._bundle.given, self.retrained)

    @cached_property
    def _bundle(self) -> Bundle:
        columns = Columns(
            self.image_column, self.label_column, self.group_column, self.train_split, self.test_split
        )
        is_file = self.model.endswith(".py") or ".py:" in self.model
        if not self.model:
            raise BadValue("custom: say which model, with model=FILE.py:FUNCTION, a folder or a hub name")
        return self._from_file(columns) if is_file else self._from_transformers(columns)

    def _from_transformers(self, columns: Columns) -> Bundle:
        if not self.data:
            raise BadValue(f"{self.model}: name the data with data=FOLDER or data=OWNER/NAME")
        if is_configuration(self.model) and not self.weights:
            raise BadValue(
                f"{self.model} says how a model is built and holds no weights; name them with weights=FILE"
            )
        found = load_classifier(self.model)
        frame = self._frame(found.frame)
        data = _aligned(load(self.data, columns, frame), found.classes)
        if self.weights:
            load_into(found.module, Path(self.weights).expanduser())
        subject = Classifier(
            found.module, len(found.classes), build=found.untrained, read=logits_of, head=self.head
        )
        transform = found.pixels if self.normalise == "auto" else self._pixels(len(found.pixels.mean))
        return Bundle(subject, data, transform, "")

    def _from_file(self, columns: Columns) -> Bundle:
        file = UserFile(self.model)
        returned = file.call()
        model, *rest = returned if isinstance(returned, tuple) else (returned,)
        data = self._data(file, rest, columns)
        transform = self._transform(file, data.train.source)
        if isinstance(model, nn.Module):
            model = self._wrapped(model, data, transform, str(file.get("unit") or ""))
        elif not isinstance(model, Subject):
            raise BadValue(
                f"{self.model} returned {type(model).__name__} as the model; return an nn.Module or a subject, alone or as (model, train, test)"
            )
        fit = file.function_named("fit")
        if fit is not None and isinstance(model, Trains) and model.recipe is None:
            model.recipe = Function(fit, file.hash)
        if self.weights:
            load_into(model.module, Path(self.weights).expanduser())
        if isinstance(model, Classifies) and not data.train.labels.classes:
            labels = replace(data.train.labels, classes=tuple(map(str, range(model.classes))))
            data = replace(data, train=replace(data.train, labels=labels))
        return Bundle(model, data, transform, file.hash)

    def _data(self, file: UserFile, rest: Sequence[Any], columns: Columns) -> Loaded:
        """Data that the function returned, or that `data` names."""
        if len(rest) > 2:
            raise BadValue(f"{self.model} returned {len(rest) + 1} things; return (model, train, test)")
        classes: tuple[str, ...] = tuple(map(str, file.get("classes") or ()))
        if rest:
            parts: list[Part] = []
            for given in rest:
                known = classes or (parts[0].labels.classes if parts else ())
                parts.append(in_memory(given, columns, self._frame(Frame()), known))
            found = loaded(parts)
        elif self.data:
            found = load(self.data, columns, self._frame(Frame()))
        else:
            raise BadValue(
                f"{self.model} returned a model and no data; return (model, train, test) or name them with data=PATH"
            )
        groups = file.get("groups")
        if groups is None:
            return found
        if len(groups) != len(found.train.rows):
            raise BadData(
                f"{file.path.name}: groups names {len(groups)} owners for {len(found.train.rows)} training examples; name one for each"
            )
        labels = replace(found.train.labels, groups=tuple(map(str, groups)))
        return replace(found, train=replace(found.train, labels=labels))

    def _wrapped(self, module: nn.Module, data: Loaded, transform: Transform, unit: str) -> Subject:
        """A plain module as a classifier, or as a regressor where the targets are no whole numbers.

        How many outputs it has is found by a small forward pass.
        """
        x = transform(data.train.source.fetch(torch.zeros(1, dtype=torch.long)), None)
        try:
            with torch.no_grad(), mode(module, train=False):
                out = module(x.to(next(module.parameters()).device))
        except (RuntimeError, ValueError, IndexError, TypeError) as err:
            said = (str(err).splitlines() or [type(err).__name__])[0]
            raise BadData(
                f"the model does not accept inputs of shape {tuple(x.shape[1:])} ({x.dtype}): {said}; give data of the shape it was trained on"
            ) from err
        if self.head:
            named(module, self.head)
        y = data.train.source.y
        if y.is_floating_point():
            return self._regressor(module, out, y, unit)
        read = logits_of if isinstance(out, Mapping) and "logits" in out else as_is
        logits = read(out) if isinstance(out, Tensor | Mapping) else None
        if logits is None or logits.ndim != 2 or logits.shape[1] < 2:
            shape = tuple(logits.shape) if logits is not None else type(out).__name__
            raise BadData(
                f"a plain module must return logits of shape (B, C) where targets are whole numbers, this one returned {shape}; give real numbers as targets of a regression, or return a subject for other kinds of models"
            )
        return Classifier(module, logits.shape[1], read=read, head=self.head)

    def _regressor(self, module: nn.Module, out: Any, y: Tensor, unit: str) -> Regressor:
        """A plain module that predicts y of shape (N,) or (N, K); its errors are weighed by the deviation of y."""
        values = y.reshape(len(y), -1)
        if not isinstance(out, Tensor) or out.numel() != values.shape[1]:
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise BadData(
                f"a plain module must return values of shape (B,) or (B, K) as its targets are, (B, {values.shape[1]}); for one example this one returned {found}; give whole numbers as targets of a classifier"
            )
        spread = values.double().std(0, correction=0).mean()
        return Regressor.fitted(module, y, head=self.head, unit=unit, weigh=float(spread) or 1.0)

    def _transform(self, file: UserFile, source: Source) -> Transform:
        own = file.function_named("transform")
        if own is not None:
            return own if isinstance(own, Pixels) else Own(own, file.hash)
        first = source.fetch(torch.zeros(1, dtype=torch.long))
        if first.dtype != torch.uint8 or first.ndim != 4:
            return as_float
        return self._pixels(first.shape[1])

    def _pixels(self, channels: int) -> Pixels:
        mean, std = STATS["none" if self.normalise == "auto" else self.normalise]
        return Pixels(mean[:channels], std[:channels])

    def _frame(self, wanted: Frame) -> Frame:
        return replace(wanted, size=(self.size, self.size), shortest=0) if self.size else wanted


def _aligned(data: Loaded, classes: tuple[str, ...]) -> Loaded:
    """The data with class ids as the model numbers them, where both name the same classes in another order."""
    names = data.train.labels.classes
    if names == classes or set(names) != set(classes):
        labels = replace(data.train.labels, classes=names if len(names) == len(classes) else classes)
        return replace(data, train=replace(data.train, labels=labels))
    ids = torch.tensor([classes.index(n) for n in names])

    def moved(part: Part) -> Part:
        source = part.source
        source.y = ids[source.y]
        return replace(part, labels=replace(part.labels, y=source.y, classes=classes))

    return replace(data, train=moved(data.train), test=data.test and moved(data.test))


def _surrogate(source: Source) -> Source | None:
    """Patches of photographs in the size of the data, where these are square uint8 images."""
    first = source.fetch(torch.zeros(1, dtype=torch.long))
    _, *shape = first.shape
    if first.dtype != torch.uint8 or len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        return None
    return photo_patches(SURROGATES, shape[1], shape[0])
