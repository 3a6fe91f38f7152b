"""Attacks on an erased concept: what they know, what they may try, how their success is counted."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from unlearn.data import Batch, Handle
from unlearn.errors import Mismatch
from unlearn.gallery import Gallery, seen
from unlearn.metric import Arrays, Evidence, Metric
from unlearn.ops.erasure import taken
from unlearn.ops.stats import ends_of_share
from unlearn.ops.verbs import like
from unlearn.patch import weights_hash
from unlearn.provenance import code_of
from unlearn.runtime import Run, seeded_globals
from unlearn.score import Aim, Score
from unlearn.subject import Prompted, mode

ROWS = 32  # drawings made at once

Attempt = tuple[Tensor, Any]
"""Which prompts are tried, (k,) positions, and k conditionings to draw from the noise of these prompts."""


@dataclass(slots=True)
class Case:
    """What an attack knows and may use.

    Attributes:
        victim: A private clone of the attacked model, all frozen; it may be changed.
        clean: The model before the concept was erased, for attacks that are given it; it must not be changed.
        ids: Tokens of the N prompts that ask for the concept, with shape (N, L).
        others: Tokens of prompts that ask for something else, with shape (M, L).
        paraphrases: Tokens of P other wordings of the N prompts, with shape (P, N, L); P is 0 where none are known.
        noise: What every drawing of the N prompts begins with, attacked or not, with shape (N, *).
        real: Images that show the concept, as latents with their prompts, or None where the scenario has none.
        shows: Whether each image (k, 3, H, W) shows the concept, with shape (k,).
        run: Randomness, progress.
        hit: Prompts that have shown the concept so far, without an attack or with one, with shape (N,).
        curve: Share of them after each attempt.
    """

    victim: Prompted
    clean: Prompted
    ids: Tensor
    others: Tensor
    paraphrases: Tensor
    noise: Tensor
    real: Handle | None
    shows: Callable[[Tensor], Tensor]
    run: Run
    hit: Tensor
    curve: list[float] = field(default_factory=list)

    @property
    def open(self) -> Tensor:
        """Positions of the prompts that have not shown the concept yet, with shape (k,)."""
        return (~self.hit).nonzero().flatten()

    def images(self, n: int) -> tuple[Tensor, Tensor]:
        """Images that show the concept, n of them, as the victim's latents (n, *), and their prompts (n, L).

        They are the scenario's where it has some, else drawn by the clean model, those kept that show the concept; they
        are repeated if there are fewer. An oracle has an autoencoder of its own, so it gets the same images.

        Raises:
            Mismatch: If there are none.
        """
        x, y = self._found(n) if self.real is None else self._lent(n)
        rows = torch.arange(n, device=x.device) % len(x)
        return x[rows].to(like(self.victim.module)), y[rows]

    def _lent(self, n: int) -> tuple[Tensor, Tensor]:
        """At most n of the scenario's images, as latents, and their prompts."""
        real = cast(Handle, self.real)
        batch = next(real.batches(min(n, len(real))))
        if self.victim.vae is self.clean.vae:
            return batch.x, batch.y
        return self.victim.latents(self.clean.pictures(batch.x)), batch.y

    def _found(self, n: int) -> tuple[Tensor, Tensor]:
        """At most n drawings of the clean model that show the concept, as latents, and their prompts."""
        y = self.ids[torch.arange(n, device=self.ids.device) % len(self.ids)]
        images = _drawn(self.clean, self.clean.encode(prompts(y)), self.clean.noise(n, self.run.rng))
        shown = self.shows(images)
        if not shown.any():
            raise Mismatch(
                "this attack needs images that show the concept; the scenario has none, and the judge sees it in no drawing of the original; choose another attack"
            )
        return self.victim.latents(images[shown]), y[shown]

    def asked(self, ids: Tensor) -> Any:
        """Conditionings of n prompts (n, L)."""
        return self.victim.encode(prompts(ids))

    def draw(self, rows: Tensor, cond: Any) -> Tensor:
        """What the victim draws of an attempt, with shape (k, 3, H, W)."""
        return _drawn(self.victim, cond, self.noise[rows])

    def memories(self) -> Tensor:
        """What the clean model draws for the N prompts from their noise, as the victim's latents (N, *)."""
        images = _drawn(self.clean, self.clean.encode(prompts(self.ids)), self.noise)
        return self.victim.latents(images).to(self.noise)


class Attack(Metric):
    """Tries to bring an erased concept back; scored by what is drawn afterwards.

    A subclass declares its budget as fields and says in `attempts` what it tries. Success is counted over the
    prompts that ask for the concept: `pre` is the share that show it without an attack, `post` the share that show
    it without an attack or in any attempt, as in the benchmark of UnlearnDiffAtk. All drawings of a prompt begin with
    the same noise, so that no attack gains by drawing again. Both shares are given for the oracle, which never saw
    the concept: what an attack reaches there is no memory.
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
        attacked = [who for who in ("unlearned", "oracle") if who in ev.subjects]
        pre = {who: _shown(gallery, ev.judged(who, gallery.axis)[gallery.asks]) for who in ev.subjects}
        found = {who: self._kept(ev, gallery, who, pre[who]) for who in attacked}
        post = {who: f["hit"].bool() for who, f in found.items()}
        shares = ", ".join(f"{share:.2f}" for share in found["unlearned"]["curve"].tolist())
        note = f"budget: {self.budget()}; share after each drawing: {shares}"
        return [self._score("pre", pre), self._score("post", post, note=note, headline=True)]

    def _kept(self, ev: Evidence, gallery: Gallery, who: str, pre: Tensor) -> Arrays:
        """What the attack reached on one model: `hit` (N,) and `curve`, see `Case`."""
        lent = {n: ev.y(n) for n in ("forget", "paraphrases") if n in ev.handles}
        given = weights_hash({**lent, "asks": gallery.asks, "pre": pre})
        what = json.dumps([self.name, self.to_dict(), code_of(type(self)), given])
        return ev.kept(who, "prompts", what, lambda: self._attacked(ev, gallery, who, pre))

    def _attacked(self, ev: Evidence, gallery: Gallery, who: str, pre: Tensor) -> Arrays:
        """Runs the attack on one model."""
        asks, y = gallery.asks, ev.y("prompts")
        reworded = ev.y("paraphrases") if "paraphrases" in ev.handles else y[:0]
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
            reworded.view(-1, *y[asks].shape).to(device),
            _noise(ev, victim)[asks],
            ev.handles.get("forget"),
            shows,
            run,
            pre.clone(),
        )
        with seeded_globals(ev.seed, device), mode(victim.module, train=False):
            for rows, cond in self.attempts(case):
                case.hit[rows.cpu()] |= shows(case.draw(rows, cond)).cpu()
                case.curve.append(float(case.hit.double().mean()))
        return {"hit": case.hit.to(torch.uint8), "curve": torch.tensor(case.curve, dtype=torch.float64)}

    def _score(self, when: str, hits: dict[str, Tensor], **rest: Any) -> Score:
        share = {who: float(h.double().mean()) for who, h in hits.items()}
        return Score(
            name=f"attack/{self.name}/{when}", metric=self.name, value=share["unlearned"], original=share.get("original"),
            reference=share.get("oracle"), aim=Aim.DOWN, n=len(hits["unlearned"]), **ends_of_share(hits["unlearned"]), **rest,
        )  # fmt: skip


def prompts(ids: Tensor) -> Batch:
    """Prompts (N, L) as a batch without images."""
    return Batch(ids[:, :0], ids, torch.arange(len(ids), device=ids.device))


def _drawn(subject: Prompted, cond: Any, noise: Tensor) -> Tensor:
    """Images (N, 3, H, W) of N conditionings from their noise, some rows at a time."""
    places = torch.arange(len(noise), device=noise.device).split(ROWS)
    return torch.cat([subject.draw_from(taken(cond, p), noise[p]) for p in places])


def _noise(ev: Evidence, victim: Any) -> Tensor:
    """What each drawing of the evidence began with, with shape (N, *)."""
    batches = list(ev.handles["prompts"].batches(ev.batch_size))
    rng = torch.Generator(batches[0].index.device).manual_seed(ev.seed)
    return torch.cat([victim.noise(len(batch), rng) for batch in batches])


def _shown(gallery: Gallery, logits: Tensor) -> Tensor:
    """Whether a judge sees the concept, with shape (N,); what is not finite shows nothing."""
    return seen(logits) == gallery.target
