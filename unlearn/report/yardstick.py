"""What forgetting and keeping are measured by: accuracy of classifiers, error of regressors; and the words for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unlearn.report.words import number, percent

DOUBT = (
    " A distance beyond these that is no larger than its own uncertainty is too close to call; the uncertainty is the 95 % "
    "interval of the difference over seeds, or √2 times that of the score for a single seed."
)
END = (
    " Where the original itself counts as forgotten by these rules, nothing can be told. The oracle is the model retrained "
    "without the forget set; without it nobody can tell."
)


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Scores that tell whether something was forgotten and the rest kept, with thresholds and words of the verdict.

    Sentences have the places `{value}`, `{other}` (the oracle's value, or the original's) and `{whose}` (one of these words).

    Attributes:
        forget: Score of the forget set.
        held: Score of held-out examples of what is kept: the first that there is.
        larger_knows: Whether a larger value is that of a model that knows more.
        forget_within: Distance from the oracle's value that counts as none.
        kept_within: Distance by which what is kept may be worse.
        relative: Whether these two are shares of the oracle's value.
        collapse: Factor of the reference's value beyond which a model is destroyed.
        names: Of the forget score in a sentence, and of the other.
        tiles: Of both on a page.
        axes: Of both in a picture of the trade-off.
        bars: Of a picture of all sets.
        forgot: Sentence on the forget set beside the oracle, without its full stop.
        kept: Sentence on held-out examples, likewise.
        still: Sentences on the forget set of a model that did not change, alone and beside the oracle.
        rules: What counts as forgotten, kept and destroyed, with places for the thresholds.
    """

    forget: str
    held: tuple[str, ...]
    larger_knows: bool
    forget_within: float
    kept_within: float
    relative: bool
    collapse: float
    names: tuple[str, str]
    tiles: tuple[str, str]
    axes: tuple[str, str]
    bars: str
    forgot: str
    kept: str
    still: tuple[str, str]
    rules: str

    def write(self, value: float | None, unit: str) -> str:
        """A value in words: a share as a percentage, an error with its unit."""
        if self.larger_knows:
            return percent(value)
        return "an unknown distance" if value is None else f"{number(value)} {unit}".rstrip()

    def short(self, value: float | None) -> str:
        """A value for a tile."""
        return number(value) if value is None or not self.larger_knows else percent(value)

    def said(self, attack_within: float) -> str:
        """The rules of a verdict by it, for the reader; the AUC of the attack may differ by so much."""
        forget, kept, worst = (f"{100 * v:g}" for v in (self.forget_within, self.kept_within, self.collapse))
        return (
            self.rules.format(
                forget=forget, kept=kept, collapse=worst, attack=f"{attack_within:g}", doubt=DOUBT
            )
            + END
        )

    def limit(self, within: float, reference: float | None) -> float:
        """A distance as a number, from one that may be a share of the oracle's value."""
        return within * abs(reference or 0.0) if self.relative else within

    def collapsed(self, value: float, against: float) -> bool:
        """Whether a value is so much worse than a reference's that the model is destroyed."""
        return value < self.collapse * against if self.larger_knows else value > self.collapse * against


ACCURACY = Yardstick(
    forget="accuracy/forget", held=("accuracy/test_retain", "accuracy/test"), larger_knows=True,
    forget_within=0.05, kept_within=0.02, relative=False, collapse=0.9,
    names=("Accuracy on the forget set", "held-out accuracy"),
    tiles=("Forgotten examples answered correctly", "Held-out accuracy"),
    axes=("forget accuracy", "held-out accuracy →"), bars="Accuracy by set",
    forgot="{value} of the forgotten examples are answered correctly, by a model retrained without them (the oracle) {other}",
    kept="{value} of held-out examples are answered correctly, by {whose} {other}",
    still=("{value} of the forgotten examples are still answered correctly", ", by the oracle {other}"),
    rules="Forgotten: accuracy on the forget set within {forget} points of the oracle's, and the AUC of the "
    "loss attack within {attack} of the oracle's, on either side: a model that answers forgotten examples "
    "worse than one that never saw them gives them away as well. Kept: held-out accuracy at most "
    "{kept} points below the oracle's.{doubt} Destroyed: held-out accuracy in any seed below {collapse} % of the "
    "oracle's, or of the original's where there is no oracle.",
)  # fmt: skip
"""Of whatever is answered right or wrong."""
ERROR = Yardstick(
    forget="error/forget/mae", held=("error/test_retain/mae", "error/test/mae"), larger_knows=False,
    forget_within=0.1, kept_within=0.05, relative=True, collapse=1.5,
    names=("The error on the forget set", "the held-out error"),
    tiles=("Error on forgotten examples", "Held-out error"),
    axes=("forget error", "← held-out error"), bars="Mean absolute error by set",
    forgot="Forgotten examples are missed by {value} in the mean, by a model retrained without them (the oracle) by {other}",
    kept="held-out examples of what is kept are missed by {value} in the mean, by {whose} by {other}",
    still=("Forgotten examples are still missed by {value} in the mean", ", by the oracle by {other}"),
    rules="Forgotten: the mean absolute error on the forget set within {forget} % of the oracle's, and the AUC of the "
    "loss attack within {attack} of the oracle's, on either side: a model that misses forgotten examples "
    "farther than one that never saw them gives them away as well. Kept: the error on held-out examples of what is kept at "
    "most {kept} % above the oracle's.{doubt} Destroyed: that error in any seed above {collapse} % of the "
    "oracle's, or the original's where there is no oracle.",
)  # fmt: skip
"""Of values."""
FOUND = "retrieval/image-to-text/top1"
RETRIEVAL = replace(
    ACCURACY, forget=f"{FOUND}/forget", held=(f"{FOUND}/test_retain", f"{FOUND}/test"),
    names=("Accuracy of retrieval on the forget set", "held-out accuracy of retrieval"),
    tiles=("Forgotten images whose text is found", "Held-out images whose text is found"),
    bars="Accuracy of retrieval by set",
)  # fmt: skip
"""Of encoders: whether the text that belongs to an image is the nearest one."""
YARDSTICKS = (ACCURACY, ERROR, RETRIEVAL)
