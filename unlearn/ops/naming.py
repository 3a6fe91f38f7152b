"""Prompts of an erasure from names alone."""

from __future__ import annotations

from dataclasses import dataclass

from unlearn.errors import BadValue

TEMPLATES = ("{}", "a picture of {}")


@dataclass(frozen=True, slots=True)
class Naming:
    """What is to be erased, what takes its place and what must stay, as names that go into templates.

    Attributes:
        concept: What is to be erased.
        preserve: What must stay; the empty prompt where nothing is named.
        anchor: What takes the concept's place; nothing for the empty prompt.
        templates: Prompts with `{}` in place of a name.

    Raises:
        BadValue: If the concept is empty or is preserved, or a template has no place for a name.

    Example:
        >>> Naming("Van Gogh", ("Monet",)).sets()["anchor"]
        ['', '']
        >>> Naming("Van Gogh", ("Monet",)).sets()["preserve"]
        ['Monet', 'a picture of Monet']
    """

    concept: str
    preserve: tuple[str, ...] = ()
    anchor: str = ""
    templates: tuple[str, ...] = TEMPLATES

    def __post_init__(self) -> None:
        if not self.concept.strip():
            raise BadValue("an empty prompt names no concept; name what is to be erased")
        if self.concept in self.preserve:
            raise BadValue(f"{self.concept!r} is to be erased and preserved; take it from one of the lists")
        if bad := [t for t in self.templates or ("",) if "{}" not in t]:
            raise BadValue(
                f"templates must hold {{}} in place of a name, got {bad[0]!r}; write one such as 'a picture of {{}}'"
            )

    def prompts(self, name: str) -> list[str]:
        """Every template around a name; around none the empty prompt, as often."""
        return [t.replace("{}", name) if name else "" for t in self.templates]

    def sets(self) -> dict[str, list[str]]:
        """Prompts of the sets `concept`, `anchor` and `preserve` of `unlearn.data.Split`."""
        kept = [p for name in dict.fromkeys(self.preserve or ("",)) for p in self.prompts(name)]
        return {
            "concept": self.prompts(self.concept),
            "anchor": self.prompts(self.anchor),
            "preserve": kept,
        }
