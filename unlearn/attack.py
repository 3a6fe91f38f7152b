"""Attacks on an erased concept: what they know, what they may try, how their success is counted."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from unlearn.data import Handle
from unlearn.gallery import Gallery
from unlearn.metric import Arrays, Evidence, Metric
from unlearn.ops.erasure import taken
from unlearn.ops.stats import ends_of_share
from unlearn.provenance import code_of
from unlearn.runtime import Run, seeded_globals
from unlearn.score import Aim, Score
from unlearn.subject import Prompted, mode

ROWS = 32  # drawings made at once

Attempt = tuple[Tensor, Tensor]
"""Which prompts were tried, (k,) positions, and what was drawn for each, (k, 3, H, W)."""


@dataclass(slots=True)
class Case:
    """What an attack knows and may use.

    Attributes:
        victim: A private clone of the attacked model, all frozen; it may be changed.
        clean: The model before the concept was erased, for attacks that are given it; it must not be changed.
        ids: Tokens of the N prompts that ask for the concept, with shape (N, L).
        others: Tokens of prompts that ask for something else, with shape (M, L).
        real: Images that show the concept, as latents with their prompts.
        shows: Whether each image (k, 3, H, W) shows the concept, with shape (k,).
        run: Randomness, progress.
        hit: Prompts that have shown the concept so far, without an attack or with one, with shape (N,).
        curve: Share of them after each attempt.
    """

    victim: Prompted
    clean: Prompted
    ids: Tensor
    others: Tensor
    real: Handle
    shows: Callable[[Tensor], Tensor]
    run: Run
    hit: Tensor
    curve: list[float] = field(default_factory=list)

    @property
    def open(self) -> Tensor:
        """Positions of the prompts that have not shown the concept yet, with shape (k,)."""
        return (~self.hit).nonzero().flatten()

    def images(self, n: int) -> tuple[Tensor, Tensor]:
        """n images that show the concept, as latents (n, *), and their prompts (n, L); repeated if there are fewer."""
        batch = next(self.real.batches(min(n, len(self.real))))
        rows = torch.arange(n, device=batch.x.device) % len(batch)
        return batch.x[rows], batch.y[rows]

    def draw(self, cond: Any, n: int) -> Tensor:
        """What the victim draws from new noise, (n, 3, H, W), for n conditionings, some rows at a time."""
        rows = torch.arange(n, device=self.ids.device).split(ROWS)
        return torch.cat([self.victim.draw_from(taken(cond, r), self.run.rng) for r in rows])


class Attack(Metric):
    """Tries to bring an erased concept back; scored by what is drawn afterwards.

    A subclass declares its budget as fields and says in `attempts` what it tries. Success is counted over the
    prompts that ask for the concept: `pre` is the share that show it without an attack, `post` the share that show
    it without an attack or in any attempt, as in the benchmark of UnlearnDiffAtk. Both are given for the oracle,
    which never saw the concept: what an attack reaches there is no memory.
    """

    needs: ClassVar[type] = Prompted
    basic: ClassVar[bool] = False

    @abstractmethod
    def attempts(self, case: Case) -> Iterator[Attempt]:
        """Yields attempts until the budget is spent; between two of them `case.open` tells what is left."""

    @abstractmethod
    def budget(self) -> str:
        """What it may spend, in words."""

    def measure(self, ev: Evidence) -> list[Score]:
        """Success without the attack and with it."""
        gallery = ev.drawn
        rows = (gallery.asked[gallery.axis] == gallery.target).nonzero().flatten()
        attacked = [who for who in ("unlearned", "oracle") if who in ev.subjects]
        pre = {who: _shown(gallery, ev.judged(who, gallery.axis)[rows]) for who in ev.subjects}
        post = {who: self._kept(ev, gallery, who, rows, pre[who]) for who in attacked}
        return [
            self._score("pre", pre, len(rows)),
            self._score("post", post, len(rows), note=f"budget: {self.budget()}", headline=True),
        ]

    def _kept(self, ev: Evidence, gallery: Gallery, who: str, rows: Tensor, pre: Tensor) -> Tensor:
        what = json.dumps([self.name, self.to_dict(), code_of(type(self))])
        found = ev.kept(who, "prompts", what, lambda: self._attacked(ev, gallery, who, rows, pre))
        return found["hit"].bool()

    def _attacked(self, ev: Evidence, gallery: Gallery, who: str, rows: Tensor, pre: Tensor) -> Arrays:
        """Runs the attack on one model."""
        asks = torch.zeros(len(gallery.captions), dtype=torch.bool).index_fill(0, rows, True)
        y = ev.y("prompts")
        victim: Any = ev.subjects[who].clone()
        victim.module.requires_grad_(False)
        clean: Any = ev.subjects["original"]
        device = next(victim.module.parameters()).device
        run = Run(ev.seed, device, ev.progress, task=f"attack {who}: {self.name}")

        def shows(images: Tensor) -> Tensor:
            return _shown(gallery, gallery.judges[gallery.axis](images))

        case = Case(
            victim,
            clean,
            y[asks].to(device),
            y[~asks].to(device),
            ev.handles["forget"],
            shows,
            run,
            pre.clone(),
        )
        with seeded_globals(ev.seed, device), mode(victim.module, train=False):
            for tried, images in self.attempts(case):
                case.hit[tried.cpu()] |= shows(images).cpu()
                case.curve.append(float(case.hit.double().mean()))
        return {"hit": case.hit.to(torch.uint8), "curve": torch.tensor(case.curve, dtype=torch.float64)}

    def _score(self, when: str, hits: dict[str, Tensor], n: int, **rest: Any) -> Score:
        share = {who: float(h.double().mean()) for who, h in hits.items()}
        return Score(
            name=f"attack/{self.name}/{when}", metric=self.name, value=share["unlearned"], original=share.get("original"),
            reference=share.get("oracle"), aim=Aim.DOWN, n=n, **ends_of_share(hits["unlearned"]), **rest,
        )  # fmt: skip


def _shown(gallery: Gallery, logits: Tensor) -> Tensor:
    """Whether a judge sees the concept, with shape (N,); what is not finite shows nothing."""
    return (logits.argmax(1) == gallery.target) & logits.isfinite().all(1)
