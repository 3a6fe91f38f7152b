"""Recovery panel: whether rounding, pruning or a little training brings back what was forgotten."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unlearn.data import Batch
from unlearn.errors import BadValue
from unlearn.knobs import knob
from unlearn.metric import Aim, Evidence, Metric, Score
from unlearn.ops.relearning import descending
from unlearn.ops.rounding import pruned, rounded
from unlearn.ops.stats import wilson
from unlearn.registry import metrics
from unlearn.subject import Classifies, mode


@metrics.register("recovery")
class Recovery(Metric):
    """Accuracy on the forget set once the weights are rounded, pruned or shown some of it again.

    On a copy of each model: weights of 8 and 4 bits, rounded in each output channel; the smallest `share` of each
    matrix set to zero; and `steps` steps of SGD with momentum on `examples` of the forget set, batch norm frozen, with the
    mean over the steps of the accuracy on the rest of it: the area under the curve of relearning, which the note gives
    beside the oracle's. The oracle is treated alike: what comes back there was not remembered. All are scores that should
    match the oracle's. Further `shares` and `budgets` of examples are scores of their own, such as `recovery/pruned/0.5`.

    References:
        Zhang et al., 2024, Catastrophic failure of LLM unlearning via quantization, arXiv:2410.16454
        Golatkar et al., 2020, Eternal sunshine of the spotless net, arXiv:1911.04933 (relearning)
    """

    basic: ClassVar[bool] = False
    needs: ClassVar[type] = Classifies
    share: float = knob(0.3, "share of the weights that is pruned", ge=0, lt=1)
    examples: int = knob(16, "forgotten examples that are learnt again", ge=1)
    shares: tuple[float, ...] = knob((), "further shares of the weights that are pruned, each below 1")
    budgets: tuple[int, ...] = knob(
        (), "further numbers of forgotten examples that are learnt again, each at least 1"
    )
    steps: int = knob(10, "steps of learning them", ge=1)
    lr: float = knob(0.01, "step size of learning them", gt=0)

    def measure(self, ev: Evidence) -> list[Score]:
        """Accuracy after each treatment.

        Raises:
            BadValue: If there is no such share or number of examples.
        """
        if not (all(0 <= s < 1 for s in self.shares) and all(k >= 1 for k in self.budgets)):
            raise BadValue(
                f"recovery: shares must be >= 0 and < 1 and budgets >= 1, got {self.shares} and {self.budgets}"
            )
        order = ev.index("forget").argsort()
        panel: dict[str, Callable[[Tensor], Tensor]] = {
            "8-bit": functools.partial(rounded, bits=8),
            "4-bit": functools.partial(rounded, bits=4),
            "pruned": functools.partial(pruned, share=self.share),
            **{f"pruned/{share:g}": functools.partial(pruned, share=share) for share in self.shares},
        }
        found = [
            self._score(ev, name, functools.partial(self._treated, ev, of=of), order)
            for name, of in panel.items()
        ]
        budgets = {"relearnt": self.examples, **{f"relearnt/{k}": k for k in self.budgets}}
        for name, k in budgets.items():
            if len(rest := order[k:]):
                curve = functools.cache(functools.partial(self._curve, ev, shown=order[:k], rest=rest))
                found.append(self._score(ev, name, curve, rest, _told(ev, k, curve)))
        return found

    def _score(
        self, ev: Evidence, name: str, of: Callable[[str], list[float]], rows: Tensor, note: str = ""
    ) -> Score:
        each = functools.cache(of)
        value = float(np.mean(each("unlearned")))
        low, high = wilson(round(value * len(rows)), len(rows))
        return ev.level(f"recovery/{name}", lambda who: float(np.mean(each(who))), Aim.MATCH, metric=self.name, n=len(rows),
                        low=min(low, value), high=max(high, value), interval="wilson 95 %", note=note)  # fmt: skip

    def _treated(self, ev: Evidence, who: str, of: Callable[[Tensor], Tensor]) -> list[float]:
        """Accuracy of a copy whose matrices and kernels were changed."""
        subject: Any = ev.subjects[who].clone()
        with torch.no_grad():
            for p in subject.module.parameters():
                if p.dim() > 1:
                    p.copy_(of(p))
        return [_accuracy(subject, _rows(ev, torch.arange(len(ev.y("forget")))))]

    def _curve(self, ev: Evidence, who: str, shown: Tensor, rest: Tensor) -> list[float]:
        """Accuracy of a copy on the rest after each step of learning some examples."""
        subject: Any = ev.subjects[who].clone()
        batch, others = _rows(ev, shown), _rows(ev, rest)
        losses = descending(subject, batch, self.lr, ev.seed)
        next(losses)  # before the first step
        return [_accuracy(subject, others) for _ in itertools.islice(losses, self.steps)]


def _told(ev: Evidence, examples: int, curve: Callable[[str], list[float]]) -> str:
    """The curves of relearning in words, the unlearned model's and the oracle's."""
    shown = ["unlearned", *(["oracle"] if ev.has_oracle else [])]
    told = [f"{who} {', '.join(f'{v:.2f}' for v in curve(who))}" for who in shown]
    return f"{examples} examples learnt again; accuracy after each step: {'; '.join(told)}"


@torch.no_grad()
def _accuracy(subject: Classifies, batch: Batch) -> float:
    with mode(subject.module, train=False):
        return float((subject.outputs(batch).argmax(1) == batch.y).double().mean())


def _rows(ev: Evidence, rows: Tensor) -> Batch:
    """Some examples of the forget set as one batch."""
    whole = next(ev.handles["forget"].batches(len(ev.y("forget"))))
    at = rows.to(whole.index.device)
    return Batch(whole.x[at], whole.y[at], whole.index[at])
