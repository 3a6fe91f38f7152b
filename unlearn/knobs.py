"""Hyper-parameters declared once: default, meaning, bounds and search range sit on the field.

A class that derives from `Declared` is a frozen value. Its fields give validation, typed command-line
options, the tables of the documentation, the sweep space, the JSON of a report, and the negative tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from unlearn.errors import BadValue

_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class Bounds(TypedDict, total=False):
    """Limits of a number: exclusive and inclusive lower and upper bounds."""

    gt: float
    ge: float
    lt: float
    le: float


def knob(
    default: Any, doc: str, *, search: tuple[float, float] | None = None, **bounds: Unpack[Bounds]
) -> Any:
    """Declares one field of a method, a metric or a scenario.

    Args:
        default: Value used when none is given; `...` for a field that must be given.
        doc: What it means, with its unit.
        search: Range that a sweep explores, inside the bounds.
        bounds: Limits: any of `gt`, `ge`, `lt`, `le`.

    Example:
        >>> class Ascent(Declared):
        ...     lr: float = knob(0.01, "step size", gt=0, search=(1e-4, 1e-1))
        >>> Ascent(lr=-1.0)
        Traceback (most recent call last):
        ...
        unlearn.errors.BadValue: ascent: lr must be > 0, got -1.0 (default 0.01)
    """
    extra: dict[str, Any] = {"search": list(search)} if search else {}
    return Field(default, description=doc, json_schema_extra=extra, **bounds)


@dataclass(frozen=True, slots=True)
class Knob:
    """One declared field, as tables, options and tests read it.

    Attributes:
        name: Field name.
        type: Annotation.
        default: Value used when none is given.
        doc: What it means.
        bounds: Limits by kind: any of `gt`, `ge`, `lt`, `le`.
        search: Range that a sweep explores, or None.
    """

    name: str
    type: Any
    default: Any
    doc: str
    bounds: dict[str, float]
    search: tuple[float, float] | None

    @property
    def choices(self) -> tuple[Any, ...]:
        """The allowed values where the type is a Literal, else nothing."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def allowed(self) -> str:
        """The allowed values in words, for messages and tables."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        return " and ".join(f"{_SIGNS[k]} {v:g}" for k, v in self.bounds.items()) or self.kind

    @property
    def kind(self) -> str:
        """The type in words."""
        return self.type.__name__ if isinstance(self.type, type) else str(self.type).replace("typing.", "")


class Declared(BaseModel):
    """A frozen value whose fields are declared with `knob`.

    Raises:
        BadValue: One line that names every bad field, what was given and what is allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as err:
                raise BadValue(_explain(type(self), err)) from None

    @classmethod
    def knobs(cls) -> Iterator[Knob]:
        """Every declared field, in order."""
        for name, field in cls.model_fields.items():
            yield _knob(name, field)

    @classmethod
    def title(cls) -> str:
        """The name by which messages call this class: the registered one where there is one."""
        return str(getattr(cls, "name", "") or getattr(cls, "kind", "") or cls.__name__.lower())

    def to_dict(self) -> dict[str, Any]:
        """Fields as plain JSON values; `from_dict` turns them back."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the value from JSON: lists become tuples where the field is one."""
        fields = cls.model_fields
        tuples = {n for n in values if n in fields and get_origin(fields[n].annotation) is tuple}
        return cls(**{n: tuple(v) if n in tuples else v for n, v in values.items()})


def _knob(name: str, field: FieldInfo) -> Knob:
    bounds = {k: getattr(m, k) for m in field.metadata for k in _SIGNS if getattr(m, k, None) is not None}
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    search: Any = extra.get("search")
    return Knob(name, field.annotation, field.get_default(), field.description or "", bounds,
                tuple(search) if search else None)  # fmt: skip


def _explain(cls: type[Declared], err: ValidationError) -> str:
    knobs = {k.name: k for k in cls.knobs()}
    parts: dict[str, str] = {}
    for e in err.errors():
        name = str(e["loc"][0]) if e["loc"] else ""
        if name in knobs:
            k = knobs[name]
            wrong_type = "type" in e["type"] or e["type"].endswith("_parsing")
            allowed = k.kind if wrong_type and not k.choices else k.allowed
            default = "" if k.default is PydanticUndefined else f" (default {k.default!r})"
            parts[name] = f"{name} must be {allowed}, got {e['input']!r}{default}"
        elif e["type"] == "extra_forbidden":
            parts[name] = f"{name} is no field; the fields are {', '.join(knobs) or 'none'}"
        else:
            parts[name] = str(e["msg"]).removeprefix("Value error, ")
    return f"{cls.title()}: " + "; ".join(parts.values())
