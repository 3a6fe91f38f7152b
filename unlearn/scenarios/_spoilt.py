"""What the scenarios share whose training examples can be spoilt on purpose."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

from torch import Tensor

from unlearn.errors import BadValue
from unlearn.knobs import knob
from unlearn.ops.spoiling import Backdoor, Canaries, Confusion, Noise, Spoiling, spoilt
from unlearn.provenance import digest
from unlearn.request import class_id
from unlearn.scenario import Material, Scenario
from unlearn.sources import Pixels


class Spoilable(Scenario):
    """Images of classes of which some can be spoilt, in one of four ways; then the truth is known.

    Labels are made wrong at random (`noise`), those of two classes are swapped (`confuse`), a patch is made to stand
    for a class (`backdoor`), or single examples get a mark of their own and a random label (`canaries`).
    """

    noise: float = knob(0.0, "share of training labels made wrong, to be memorised", ge=0, le=0.5)
    confuse: str = knob("", "two classes whose training labels are swapped in part, as 3:5")
    swapped: float = knob(0.3, "share of the labels of both classes that `confuse` swaps", gt=0, le=0.5)
    backdoor: float = knob(
        0.0, "share of training images that get a patch and the label of `target`", ge=0, le=0.5
    )
    target: str = knob("0", "number or name of the class that a backdoor's patch stands for")
    canaries: int = knob(0, "training images that get a mark of their own and a random label", ge=0)

    @abstractmethod
    def clean(self) -> Material:
        """The data before anything is spoilt."""

    def material(self) -> Material:
        """See `Scenario.material`."""
        made = self.clean()
        inputs = made.inputs or made.content
        way = self._way(made)
        if way is None:
            return made
        return replace(spoilt(made, way), content=digest([made.content, repr(way)]), inputs=inputs)

    @property
    def spoils(self) -> bool:
        """Whether anything is spoilt.

        Raises:
            BadValue: If it is in more than one way.
        """
        asked = [n for n in ("noise", "confuse", "backdoor", "canaries") if getattr(self, n)]
        if len(asked) > 1:
            raise BadValue(
                f"{self.name}: {' and '.join(asked)} are given, and examples are spoilt in one way only; leave out all but one"
            )
        return bool(asked)

    def _way(self, clean: Material) -> Spoiling | None:
        """How these examples are spoilt, or None."""
        if not self.spoils:
            return None
        labels = clean.train.labels
        if self.noise:
            return Noise(self.noise)
        if self.confuse:
            return Confusion(self.swapped, self._pair(labels.classes))
        if self.canaries:
            return Canaries(self.canaries / len(labels.y))
        target = class_id(self.target, labels.classes, "class")
        return Backdoor(self._of_others(labels.y, target), target, _cut(clean))

    def _pair(self, classes: tuple[str, ...]) -> tuple[int, int]:
        """Ids of the two classes that are confused."""
        names = self.confuse.split(":")
        ids = [class_id(n, classes, "class") for n in names]
        if len(set(ids)) != 2 or len(ids) != 2:
            raise BadValue(
                f"{self.name}: confuse must be two different classes, such as 3:5, got {self.confuse!r}"
            )
        return ids[0], ids[1]

    def _of_others(self, y: Tensor, target: int) -> float:
        """`backdoor` as a share of the examples of all other classes."""
        others = int((y != target).sum())
        n = round(self.backdoor * len(y))
        if n > others:
            raise BadValue(
                f"{self.name}: backdoor={self.backdoor:g} asks for {n} examples of other classes than {self.target}, and there are {others}; give a smaller share"
            )
        return n / others


def _cut(clean: Material) -> int:
    """Pixels that a random crop may cut off."""
    return clean.transform.pad if isinstance(clean.transform, Pixels) else 0
