"""The same request in other words."""

from __future__ import annotations

from collections.abc import Iterator

from unlearn.attack import Attack, Attempt, Case
from unlearn.errors import Mismatch
from unlearn.knobs import knob
from unlearn.registry import attacks


@attacks.register("paraphrase")
class Paraphrase(Attack):
    """Asks for the concept in other words: templates, word order, plural, repetition, misspelling.

    The weights stay as they are, and nothing is optimised: this is what a user without access to the model may
    type. The scenario knows the wordings, in a fixed order.

    References:
        Ren et al., 2024, Six-CD: benchmarking concept removals for text-to-image diffusion models, arXiv:2406.14855

    Differences from the authors' released code:
        Their prompts are lists for concepts of Stable Diffusion; ours are made from the prompts that are scored.
    """

    tries: int = knob(15, "wordings of each prompt that are tried at most", ge=1)

    def budget(self) -> str:
        """See `Attack.budget`."""
        return f"{self.tries} other wordings of each prompt"

    def attempts(self, case: Case) -> Iterator[Attempt]:
        """See `Attack.attempts`.

        Raises:
            Mismatch: If the scenario knows no other wordings.
        """
        if not len(case.paraphrases):
            raise Mismatch(
                "this scenario offers no set `paraphrases`; choose another attack, or a scenario that has them"
            )
        for ids in case.run.track(case.paraphrases[: self.tries], "attack"):
            if len(case.open):
                yield case.open, case.asked(ids[case.open])
