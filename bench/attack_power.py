"""Whether an attack that does not bring a concept back is weak, or the model holds.

    python bench/attack_power.py > docs/results/attack-power.md

ESD with its defaults erases a concept from the embedded pipeline at seed 0. What each attack found is drawn by the
erased model and by the original, from the same noise: conditionings mean the same to both, for ESD leaves the text
encoder alone. Then the weights of both are rounded to fewer and fewer bits.
"""

import torch

from unlearn.attack import Case, prompts
from unlearn.attacks.inversion import Inversion
from unlearn.attacks.p4d import P4D
from unlearn.attacks.paraphrase import Paraphrase
from unlearn.attacks.ring_a_bell import RingABell, direction, states
from unlearn.attacks.unlearn_diff_atk import UnlearnDiffAtk
from unlearn.concepts import asked, merged
from unlearn.data import Resident, Split
from unlearn.gallery import seen
from unlearn.methods.esd import ESD
from unlearn.ops import hub
from unlearn.ops.rounding import rounded
from unlearn.runtime import Run
from unlearn.scenario import parse

CONCEPTS = ("three", "chalk")
BITS = (8, 6, 5, 4, 3, 2)


class Trial:
    """One concept: the original, the erased model, and what both draw."""

    def __init__(self, concept):
        scenario = parse(f"ink/concept={concept}")
        self.sets, self.gallery = asked(scenario, 0)
        self.original, self.erased = scenario.original(), scenario.original().clone()
        lent = {n: Resident(s) for n, s in merged([scenario.prompts(scenario.request)]).items()}
        none = dict.fromkeys(Split.__dataclass_fields__)
        self.erased = ESD().unlearn(self.erased, Split(**{**none, **lent}), Run(0))
        self.erased.module.requires_grad_(False)
        y, asks = self.sets["prompts"].y, self.gallery.asks
        self.ids, self.others = y[asks], y[~asks]
        self.noise = self.erased.noise(len(y), torch.Generator().manual_seed(0))[asks]

    def shows(self, images):
        """Which images (N, 3, H, W) show the concept."""
        return seen(self.gallery.judges[self.gallery.axis](images)) == self.gallery.target

    def share(self, subject, cond):
        """Share of the prompts for which a model shows it, given their conditionings."""
        return float(self.shows(subject.draw_from(cond, self.noise)).float().mean())

    def plain(self, subject):
        """The same without an attack."""
        return self.share(subject, subject.encode(prompts(self.ids)))

    def case(self):
        """A case in which nothing ever succeeds, so that every attempt draws every prompt."""
        reworded = self.sets["paraphrases"].y.view(-1, *self.ids.shape)
        hit = torch.zeros(len(self.ids), dtype=torch.bool)
        return Case(self.erased.clone(), self.original, self.ids, self.others, reworded, self.noise, None, self.shows,
                    Run(0), hit)  # fmt: skip

    def found(self, attack):
        """Best share over the attempts of an attack, on the erased model and on the original."""
        pairs = [
            (self.share(self.erased, c), self.share(self.original, c))
            for _, c in attack.attempts(self.case())
        ]
        return tuple(max(side) for side in zip(*pairs, strict=True))

    def unwritten(self, strength):
        """The same for the text states that Ring-A-Bell looks for, which no word has to spell."""
        case = self.case()
        flat = states(self.original, self.ids) + strength * direction(case)
        cond = flat.view_as(self.original.encode(prompts(self.ids)))
        return self.share(self.erased, cond), self.share(self.original, cond)

    def quantised(self, bits):
        """The same with weights of so many bits."""
        return tuple(self.plain(_quantised(s, bits)) for s in (self.erased, self.original))


@torch.no_grad()
def _quantised(subject, bits):
    made = subject.clone()
    for p in made.module.parameters():
        if p.dim() > 1:
            p.copy_(rounded(p, bits))
    return made


def main():
    """Prints the page."""
    hub.quiet()
    print("# What the attacks find, drawn by the erased model and by the original\n")
    print(
        "Share of the concept's prompts that show it, ESD at its defaults and seed 0: the best single attempt of each attack."
    )
    print(
        "Where the original draws the concept and the erased model does not, the attack asks well and the model holds."
    )
    print("Made by `python bench/attack_power.py`.\n")
    for concept in CONCEPTS:
        trial = Trial(concept)
        rows = [("no attack", (trial.plain(trial.erased), trial.plain(trial.original)))]
        tried = (Inversion(), UnlearnDiffAtk(), P4D(), RingABell(), Paraphrase())
        rows += [(attack.name, trial.found(attack)) for attack in tried]
        rows.append(("what ring-a-bell looks for, without words", trial.unwritten(RingABell().strength)))
        rows += [(f"weights of {bits} bits", trial.quantised(bits)) for bits in BITS]
        print(f"## {concept}\n\n| attack | erased | original |\n| --- | ---: | ---: |")
        for name, (erased, original) in rows:
            print(f"| {name} | {erased:.3f} | {original:.3f} |", flush=True)
        print()


if __name__ == "__main__":
    main()
