"""Membership attacks on the forget set by one threshold."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from unlearn.knobs import knob
from unlearn.metric import Evidence, Metric, Score
from unlearn.ops.attacked import Attacked
from unlearn.ops.membership import signal
from unlearn.registry import metrics
from unlearn.subject import Classifies, HasLoss


@metrics.register("mia")
class Mia(Metric):
    """How well one threshold tells forgotten examples from like examples never seen.

    Population attacks on the loss, the confidence p_y, the entropy and the modified entropy of each
    example, members expected to have the smaller loss. Each is a number s of the example; over all
    thresholds,

        AUC = P(s_forget > s_held-out) + ½ P(=),   balanced accuracy = ½ (TPR + 1 − FPR),

    and the TPR at a fixed FPR, which is refused where too few held-out examples carry it. The threshold of
    the balanced accuracy is fitted on half of the forget set against `audit_fit` and scored on the other
    half against `audit`; the halves then change places. `auc-retain` is the same attack on the retain set.
    Loss and confidence order the examples alike. A subject that is no classifier has its loss only.

    References:
        Yeom et al., 2018, Privacy risk in machine learning, arXiv:1709.01604
        Song and Mittal, 2021, Systematic evaluation of privacy risks of machine learning models,
        arXiv:2003.10595
        Carlini et al., 2022, Membership inference attacks from first principles, arXiv:2112.03570

    Differences from the authors' released code:
        Thresholds are exact and not per class. The forget set is compared with held-out examples that are
        distributed as it is, never with the retain set.
    """

    needs: ClassVar[type] = HasLoss
    draws: int = knob(200, "bootstrap draws of an interval", ge=20)

    def measure(self, ev: Evidence) -> list[Score]:
        """Every attack on every signal."""
        names = ["loss"]
        if isinstance(ev.subjects["unlearned"], Classifies):
            names += ["confidence", "entropy", "m-entropy"]
        found = (
            Attacked(ev, self.name, f"mia/{name}", partial(signal, ev, name=name), self.draws, name == "loss")
            for name in names
        )
        return [score for attack in found for score in attack.scores()]
