"""Layer by layer: from which block of a network on the forgotten classes can no longer be read off."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.hooks import blocks, pooled, watching
from unlearn.ops.representations import linear_accuracy
from unlearn.ops.stats import wilson
from unlearn.provenance import code_of
from unlearn.registry import metrics
from unlearn.subject import mode


@metrics.register("layers")
class Layers(Metric):
    """How well the forgotten classes can be read off each block of the network by a linear probe.

    The protocol is that of `probe`: a logistic regression is fitted on the held-out examples that are set aside to fit
    attacks, all classes among them, and answers the forget set. The features are the outputs of a block, of images and
    tokens their mean over places; the blocks are the stages of the network, see `unlearn.ops.hooks.blocks`. Where only
    the last layer was edited every block before it answers as that of the original does. The first blocks answer alike
    in all models, the oracle too, which is the reference.

    References:
        Alain and Bengio, 2016, Understanding intermediate layers using linear classifier probes, arXiv:1610.01644
    """

    basic: ClassVar[bool] = False
    penalty: float = knob(1.0, "inverse strength C of the L2 penalty of the probes", gt=0)
    least: int = knob(5, "blocks below which the largest is divided", ge=1)

    def measure(self, ev: Evidence) -> list[Score]:
        """Accuracy on the forget set at each block, in the order of a forward pass."""
        names = self._features(ev, "unlearned", "forget")
        return [self._score(ev, name) for name in sorted(names, key=lambda n: int(n.partition(" ")[0]))]

    def _score(self, ev: Evidence, block: str) -> Score:
        value = functools.cache(lambda who: self._accuracy(ev, who, block))
        n, mine = len(ev.y("forget")), value("unlearned")
        low, high = (None, None) if mine != mine else wilson(round(mine * n), n)
        return ev.level(f"layers/{block.partition(' ')[2]}", value, Aim.MATCH, metric=self.name, n=n,
                        low=low, high=high, interval="wilson 95 %")  # fmt: skip

    def _accuracy(self, ev: Evidence, who: str, block: str) -> float:
        order = ev.index("fit").argsort()
        fit, forget = (self._features(ev, who, where)[block] for where in ("fit", "forget"))
        return linear_accuracy(fit[order], ev.y("fit")[order], forget, ev.y("forget"), self.penalty)

    def _features(self, ev: Evidence, who: str, where: str) -> dict[str, Tensor]:
        """Features (N, D) of each block by its place and name."""
        what = json.dumps([self.name, self.least, code_of(type(self), modules=("unlearn.ops.hooks",))])
        return ev.kept(who, where, what, lambda: self._pass(ev, who, where))

    @torch.inference_mode()
    def _pass(self, ev: Evidence, who: str, where: str) -> dict[str, Tensor]:
        subject: Any = ev.subjects[who]
        rows: dict[str, list[Tensor]] = defaultdict(list)
        found: dict[str, nn.Module] = {}
        seen: dict[nn.Module, Tensor | None] = {}

        def see(block: nn.Module, _inputs: Any, out: Any) -> None:
            seen[block] = pooled(out)

        with mode(subject.module, train=False):
            for batch in ev.handles[where].batches(ev.batch_size):
                found = found or blocks(subject.module, batch.x[:2], self.least)
                with watching(list(found.values()), see):
                    subject.outputs(batch)
                for k, (name, block) in enumerate(found.items()):
                    if (vectors := seen[block]) is not None:
                        rows[f"{k} {name}"].append(vectors.float().cpu())
        return {name: torch.cat(parts) for name, parts in rows.items()}
