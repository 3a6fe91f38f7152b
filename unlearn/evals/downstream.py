"""What the features are worth for another task: a linear probe and nearest neighbours on a second data set."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from unlearn.data import Resident
from unlearn.errors import BadValue, Mismatch
from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.photos import which_photo
from unlearn.ops.representations import knn_accuracy, linear_accuracy
from unlearn.ops.stats import wilson
from unlearn.patch import weights_hash
from unlearn.provenance import code_of
from unlearn.registry import metrics
from unlearn.scenario import parse
from unlearn.sources import Arrays
from unlearn.subject import EmbedsClasses, mode

SEED = 2  # of the split and of the patches, as in the authors' code
HELD_OUT = 0.2
SAMPLE = 1000  # of the model's own inputs, to know their form


@metrics.register("downstream")
class Downstream(Metric):
    """How well the features serve another task, by a linear probe and nearest neighbours.

    Of the second set four fifths are learnt from and one fifth is answered, by a logistic regression on the features
    (`downstream/probe`) and by a vote of `neighbours` nearest by cosine (`downstream/knn`). A method that wrecks the
    features to forget loses here what the oracle keeps. Without `other` the task is which of the two photographs that
    scikit-learn ships an image is a patch of, in the shape of the model's own images: real, labelled, no download, and
    in no training set. Methods that read surrogates may have seen other patches of them, without labels. Patches
    overlap and brightness alone tells many, so only a wreck shows there: the probe on an untrained network of 8 x 8
    digits has 0.83, on a trained one 0.89.

    References:
        Kim et al., 2025, Are we truly forgetting?, arXiv:2503.06991

    Differences from the authors' released code:
        Their second sets are Office-Home, CUB and DomainNet-126; any scenario of the right shape can be named.
    """

    needs: ClassVar[type] = EmbedsClasses
    basic: ClassVar[bool] = False
    other: str = knob(
        "", "scenario whose held-out examples are the task; empty for patches of two photographs"
    )
    examples: int = knob(1000, "examples of the task that are used", ge=20)
    neighbours: int = knob(5, "neighbours that vote", ge=1)
    penalty: float = knob(1.0, "inverse strength C of the L2 penalty of the linear probe", gt=0)

    def measure(self, ev: Evidence) -> list[Score]:
        """Accuracy of both; unknown where the inputs are no images and no other set is named."""
        try:
            task = self._task(ev)
        except Mismatch as err:
            return [
                Score(
                    name="downstream/probe",
                    metric=self.name,
                    value=None,
                    aim=Aim.MATCH,
                    note=f"refused: {err}",
                )
            ]
        learn, answer = split(len(task))
        features = functools.cache(functools.partial(self._features, ev, task))

        def probe(who: str) -> float:
            v = features(who)
            return linear_accuracy(v[learn], task.y[learn], v[answer], task.y[answer], self.penalty)

        def near(who: str) -> float:
            v = features(who)
            return knn_accuracy(v[learn], task.y[learn], v[answer], task.y[answer], self.neighbours)

        return [self._score(ev, name, of, len(answer)) for name, of in (("probe", probe), ("knn", near))]

    def _score(self, ev: Evidence, name: str, of: Callable[[str], float], n: int) -> Score:
        value = functools.cache(of)
        mine = value("unlearned")
        low, high = (None, None) if mine != mine else wilson(round(mine * n), n)
        return ev.level(f"downstream/{name}", value, Aim.MATCH, metric=self.name, n=n, variant=self.other,
                        low=low, high=high, interval="wilson 95 %")  # fmt: skip

    def _task(self, ev: Evidence) -> Arrays:
        """The second data set, in the raw form of the scenario's own inputs.

        Raises:
            Mismatch: If there is none for inputs that are no images.
            BadValue: If the inputs of the one that is named have another shape or type.
        """
        own: Any = ev.handles["test"]
        sample: Tensor = own.source.fetch(own.rows.sort().values[:SAMPLE]).cpu()
        if self.other:
            return _named(self.other, self.examples, sample)
        if sample.dim() != 4 or sample.shape[1] not in (1, 3):
            raise Mismatch(
                f"patches of photographs are images of 1 or 3 channels, the inputs here have shape {tuple(sample.shape[1:])}; name a scenario with other='...'"
            )
        c, h, w = sample.shape[1:]
        task = which_photo(self.examples, (c, h, w), SEED)
        if sample.dtype == torch.uint8:
            return task
        x = task.x.double()
        return Arrays(
            ((x - x.mean()) / x.std() * sample.double().std() + sample.double().mean()).to(sample), task.y
        )

    def _features(self, ev: Evidence, task: Arrays, who: str) -> Tensor:
        """Penultimate features of the task's examples, with shape (N, D), their inputs treated as the scenario's own."""
        own: Any = ev.handles["test"]
        handle = Resident(task, own.transform, device=own.device)
        what = json.dumps([self.name, weights_hash({"x": task.x}), code_of(type(self))])

        @torch.inference_mode()
        def make() -> dict[str, Tensor]:
            subject: Any = ev.subjects[who]
            with mode(subject.module, train=False):
                return {
                    "features": torch.cat(
                        [subject.features(b).float().cpu() for b in handle.batches(ev.batch_size)]
                    )
                }

        return ev.kept(who, "test", what, make)["features"]


def split(n: int) -> tuple[Tensor, Tensor]:
    """Positions of the four fifths that are learnt from, and of the fifth that is answered."""
    from sklearn.model_selection import train_test_split

    learn, answer = train_test_split(range(n), test_size=HELD_OUT, random_state=SEED)
    return torch.tensor(learn), torch.tensor(answer)


def _named(text: str, n: int, sample: Tensor) -> Arrays:
    """Held-out examples of a scenario, at most n, which must look like a sample (M, *) of the model's own."""
    part = parse(text).material().test
    chosen = torch.randperm(len(part.rows), generator=torch.Generator().manual_seed(SEED))[:n].sort().values
    x = part.source.fetch(part.rows[chosen])
    if x.shape[1:] != sample.shape[1:] or x.dtype != sample.dtype:
        theirs, mine = (
            f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape[1:])}" for t in (x, sample)
        )
        raise BadValue(
            f"downstream: inputs of {text} are {theirs}, those of the model {mine}; name a scenario with such"
        )
    return Arrays(x, part.labels.y[chosen])
