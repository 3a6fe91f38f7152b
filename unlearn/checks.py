"""What is refused before anything is trained: labels, weights and data that the model cannot have."""

from __future__ import annotations

from typing import Any

import torch

from unlearn.data import Handle
from unlearn.errors import BadData, BadWeights
from unlearn.scenario import Material, Part
from unlearn.subject import Classifies, Subject, mode


def check_labels(material: Material, subject: Subject) -> None:
    """Refuses class labels that the model has no output for.

    Raises:
        BadData: With the first bad label and its row.
    """
    if not isinstance(subject, Classifies):
        return
    parts: dict[str, Part] = {"training": material.train, "validation": material.validation,
                              "held-out": material.fit, "test": material.test}  # fmt: skip
    for name, part in parts.items():
        y = part.labels.y
        if y.is_floating_point() or y.ndim != 1:
            raise BadData(
                f"{name} labels must be whole numbers of shape (N,), got {y.dtype} of shape {tuple(y.shape)}; a classifier predicts class ids"
            )
        bad = ((y < 0) | (y >= subject.classes)).nonzero().flatten()
        if len(bad):
            raise BadData(
                f"{name} label {int(y[bad[0]])} in row {int(bad[0])} is out of range: the model has classes 0 to {subject.classes - 1}; fix the labels or the model"
            )


def check_weights(subject: Subject) -> None:
    """Refuses a model whose weights are not finite.

    Raises:
        BadWeights: With the first such tensor.
    """
    for name, t in subject.module.state_dict().items():
        if t.is_floating_point() and not t.isfinite().all():
            raise BadWeights(
                f"the model's weights hold NaN or infinite values, first in {name}; give a model that works"
            )


def probe(subject: Subject, handle: Handle) -> None:
    """Refuses data that the model does not accept, by one small forward pass.

    Raises:
        BadData: With the shape that was given and what the model said.
    """
    call: Any = getattr(subject, "loss", None)
    if call is None:
        return
    batch = next(handle.batches(2))
    rng = torch.Generator(batch.index.device).manual_seed(0)
    try:
        with torch.no_grad(), mode(subject.module, train=False):
            call(batch, rng)
    except (RuntimeError, ValueError, IndexError, TypeError) as err:
        said = str(err).splitlines()[0]
        raise BadData(
            f"the model does not accept inputs of shape {tuple(batch.x.shape[1:])} ({batch.x.dtype}): {said}; give data of the shape it was trained on"
        ) from err
