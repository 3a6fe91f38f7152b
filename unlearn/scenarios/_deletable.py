"""What the scenarios share whose original can be trained so that examples are deleted from it exactly."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Generator

from unlearn.errors import BadValue
from unlearn.knobs import knob
from unlearn.ops.orders import rotations
from unlearn.ops.staged import Plan
from unlearn.scenario import Scenario
from unlearn.subjects.classifier import Classifier
from unlearn.subjects.recorded_classifier import RecordedClassifier
from unlearn.subjects.sliced_classifier import SlicedClassifier

FORMS = "sisa:5x4 (5 shards of 4 slices, with :votes where each shard has one vote), s3t:5x4 or s3t:5x4x2 (in 2 orders), updates or updates:3:17 (of batches with examples 3 and 17), or nothing"
MOST = 1000  # slices of a system
_SISA = re.compile(r"sisa:(\d+)x(\d+)(:votes)?")
_UPDATES = re.compile(r"updates((?::\d+)*)")
_S3T = re.compile(r"s3t:(\d+)x(\d+)(?:x(\d+))?")


class Deletable(Scenario):
    """Classifiers that can be trained in a way that lets examples be deleted later, exactly or by their record."""

    deletable: str = knob(
        "", "how original and oracle are trained so that examples can be deleted: sisa:5x4, s3t:5x4, updates"
    )

    def owned(self, subject: Classifier, rng: Generator) -> Any:
        """An untrained classifier as one from which examples can be deleted, or itself where nothing is asked for.

        Args:
            subject: The classifier.
            rng: Of whatever is drawn beside its weights.

        Raises:
            BadValue: If the option cannot be read.
        """
        if not self.deletable:
            return subject
        if (plan := self.plan()) is not None:
            return SlicedClassifier.of(subject, plan, rng)
        if found := _UPDATES.fullmatch(self.deletable):
            watched = tuple(int(i) for i in found[1].split(":")[1:])
            return RecordedClassifier.of(subject, watched or None)
        raise self._unread()

    def plan(self) -> Plan | None:
        """How a sliced original is divided, or None where it is none.

        Raises:
            BadValue: If there are no such shards, slices or orders.
        """
        if found := _SISA.fullmatch(self.deletable):
            shards, slices = self._sizes(found)
            return Plan(shards, rotations(slices, 1), vote="votes" if found[3] else "probabilities")
        if found := _S3T.fullmatch(self.deletable):
            shards, slices = self._sizes(found)
            orders = int(found[3] or slices)
            if not 1 <= orders <= math.factorial(min(slices, 12)):
                raise BadValue(
                    f"{self.name}: deletable={self.deletable}: {slices} slices have 1 to {math.factorial(min(slices, 12))} orders, not {orders}; ask for as many as slices or fewer"
                )
            return Plan(shards, rotations(slices, orders), layered=True, vote="logits")
        return None

    def _sizes(self, found: re.Match[str]) -> tuple[int, int]:
        shards, slices = int(found[1]), int(found[2])
        if not (shards and slices):
            raise self._unread()
        if shards * slices > MOST:
            raise BadValue(
                f"{self.name}: deletable={self.deletable} asks for {shards * slices} slices, each of which is kept; ask for at most {MOST}"
            )
        return shards, slices

    def _unread(self) -> BadValue:
        return BadValue(f"{self.name}: deletable must be {FORMS}; got {self.deletable!r}")
