"""The one abstraction a method implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, get_type_hints

from torch import Tensor

from unlearn.data import Split
from unlearn.errors import Mismatch, UnknownName
from unlearn.knobs import Declared
from unlearn.registry import unknown
from unlearn.runtime import Run
from unlearn.subject import Adapts, Steers, Subject

S = TypeVar("S", bound=Subject)


@dataclass(frozen=True, slots=True)
class Preset:
    """A published setting.

    Attributes:
        source: Where it was published, and for which data and model.
        values: Hyper-parameters that differ from the defaults.
    """

    source: str
    values: Mapping[str, Any] = field(default_factory=dict)


class Method(Declared, ABC, Generic[S]):
    """An unlearning procedure: hyper-parameters as fields, one verb.

    A subclass declares its fields with `knob`, names the protocol it needs as the annotation of `subject`,
    and draws randomness from `run.rng` alone. Its first docstring line says what it does to the model.
    """

    name: ClassVar[str] = ""
    uses: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})
    """Fields of `Split` that it reads; `retain.x` is the set without its targets."""
    presets: ClassVar[Mapping[str, Preset]] = {}
    own: ClassVar[str] = ""
    """The preset that suits a pipeline of the user's own; nothing if the defaults do, which suit small models."""
    deterministic: ClassVar[bool] = False
    """Whether every seed gives the same weights."""
    exact: ClassVar[bool] = False
    """Whether the result is a model that never saw the forget set."""
    idle: ClassVar[bool] = False
    """Whether it is meant to change nothing, as a control."""
    advice: ClassVar[str] = ""
    """Where a model comes from that offers what it needs, if few do."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Kinds of request on which the default does not work, with one sentence why."""

    def reads(self) -> frozenset[str]:
        """What this value of the method reads, where that depends on its fields; else `uses`."""
        return self.uses

    def wants(self) -> tuple[str, int]:
        """Kind and number of the models that it is lent as `pool`: `half-in` or `retrained`, see `unlearn.crowds`."""
        return "", 0

    def files(self) -> Sequence[Path]:
        """Files of the user's own whose code decides the result, beside the one that defines the method."""
        return ()

    @abstractmethod
    def unlearn(self, subject: S, data: Split, run: Run) -> S:
        """Removes the influence of `data.forget` from `subject`.

        Args:
            subject: A private clone; it may be changed in place.
            data: What was declared in `uses`; the rest is sealed.
            run: Randomness, device, progress, log, deadline.

        Returns:
            The subject, or a wrapper with the same protocols.
        """

    def beside(self) -> bool:
        """Whether what it returns acts beside the model's weights, so that no file of weights can hold it."""
        return any(base in requires(type(self)).__mro__ for base in (Steers, Adapts))

    def restore(self, subject: S, state: Mapping[str, Tensor]) -> S:
        """What `unlearn` returned, made again without unlearning; a method that returns a wrapper says how.

        Args:
            subject: A private clone of the original.
            state: Tensors of the returned subject's module that the original lacks or holds differently.
        """
        subject.module.load_state_dict(dict(state), strict=False)
        return subject

    @classmethod
    def preset(cls, name: str, **values: Any) -> Self:
        """The method with a published setting, `values` on top.

        Raises:
            UnknownName: If the method has no such preset.
        """
        if not cls.presets:
            raise UnknownName(
                f"{cls.name} has no presets; leave it out of a run with --preset, or give its options by name"
            )
        if name not in cls.presets:
            raise unknown(f"preset of {cls.name}", name, cls.presets)
        return cls(**{**cls.presets[name].values, **values})


def requires(method: type[Method[Any]]) -> type:
    """The subject protocol a method was written against, read from its signature.

    Raises:
        Mismatch: If the signature does not say it.
    """
    need = get_type_hints(method.unlearn).get("subject")
    if not isinstance(need, type):
        raise Mismatch(
            f"the signature of {method.__name__}.unlearn does not say what it unlearns; annotate `subject` with a protocol of unlearn.subject, such as Classifies"
        )
    return need
