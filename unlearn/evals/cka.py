"""Likeness of features: centred kernel alignment (CKA) with the oracle and with the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor

from unlearn.knobs import knob
from unlearn.metric import Aim, Ends, Evidence, Metric, Score
from unlearn.ops.representations import cka, cka_debiased, cka_minibatch
from unlearn.ops.sets import like_retain
from unlearn.ops.stats import over_examples
from unlearn.registry import metrics
from unlearn.subject import Embeds

FORMS: Mapping[str, Callable[[Tensor, Tensor], float]] = {
    "full": cka, "debiased": cka_debiased, "minibatch@uuef": cka_minibatch,
}  # fmt: skip


@metrics.register("cka")
class Cka(Metric):
    """How alike the features of two models are; an edit of the last layer alone leaves them.

    ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) of centred penultimate features of one set, see `unlearn.ops.representations`. `cka/SET` is
    the likeness with the oracle's; two oracles are the ceiling, printed as the floor. `cka/SET-original` is that with
    the original's, for which the oracle's own is the reference: a model that is liker than it kept what it should lose.

    References:
        Kornblith et al., 2019, Similarity of neural network representations revisited, arXiv:1905.00414
        Kim et al., 2025, Are we truly forgetting?, arXiv:2503.06991

    Differences from the authors' released code:
        Over the whole set; that of the second paper takes the mean over batches of 512, which is larger
        (`form="minibatch@uuef"`).
    """

    needs: ClassVar[type] = Embeds
    basic: ClassVar[bool] = False
    draws: int = knob(100, "bootstrap draws of an interval", ge=20)
    form: Literal["full", "debiased", "minibatch@uuef"] = knob("full", "how it is estimated")

    def measure(self, ev: Evidence) -> list[Score]:
        """On the forget set and on held-out examples."""
        variant = "" if self.form == "full" else self.form
        found = []
        for where in dict.fromkeys(("forget", like_retain(ev))):

            def between(a: str, b: str, where: str = where) -> float:
                return FORMS[self.form](ev.features(a, where), ev.features(b, where))

            n = len(ev.y(where))

            def ends(who: str, where: str = where, n: int = n) -> Ends:
                x, y = ev.features("unlearned", where), ev.features(who, where)
                found = over_examples(
                    lambda rows: FORMS[self.form](x[rows], y[rows]), n, seed=ev.seed, draws=self.draws
                )
                return _holding(found, between("unlearned", who))

            rest: dict[str, Any] = {"metric": self.name, "variant": variant, "n": n}
            found.append(ev.distance(f"cka/{where}", between, Aim.UP, partial(ends, "oracle"), **rest))
            mine = partial(between, "original")
            found.append(ev.level(f"cka/{where}-original", mine, Aim.MATCH, **rest, **ends("original")))
        return found


def _holding(ends: Ends, value: float) -> Ends:
    """An interval that holds the value too: resampled examples come twice, which makes few of them look more alike."""
    if not ends:
        return ends
    return {**ends, "low": min(ends["low"], value), "high": max(ends["high"], value)}
