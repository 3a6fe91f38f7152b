"""Prompts of real tokens with which the erased model predicts what the original does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unlearn.attack import Attack, Attempt, Case, prompts
from unlearn.knobs import knob
from unlearn.ops.erasure import taken
from unlearn.ops.prompts import prefixed, spaced
from unlearn.ops.steps import descend
from unlearn.ops.verbs import normal, whole
from unlearn.registry import attacks


@attacks.register("p4d")
class P4D(Attack):
    """Searches prompts with which the erased model predicts what the original does for the asked ones.

    The weights stay as they are. Some tokens of each prompt are free. AdamW moves a vector p for each of them, the
    model reads the token of the most similar direction, proj(p), and what would move that token's embedding moves p:

        L = mean (f(z_t, t, proj(p)) − f₀(z_t, t, prompt))²

    where f₀ is the original, and z what it draws for the prompt; t and noise are drawn as in training. In form k a free
    token stands before the prompt and after every few of its tokens; in form n free tokens take the prompt's place.

    References:
        Chin et al., 2023, Prompting4Debugging: red-teaming text-to-image diffusion models by finding problematic
        prompts, arXiv:2309.06135
        Wen et al., 2023, Hard prompts made easy, arXiv:2302.03668

    Differences from the authors' released code:
        Theirs takes 3,000 steps, looks at a drawing every 50, and keeps the prompt whose drawing is most like z to CLIP. It
        pads prompts with the token 0 while it searches, and draws the text that the tokens spell, which may be read as
        other tokens. An oracle may have latents of its own, in which the original cannot predict; there the true noise
        stands for f₀, which estimates it.
    """

    form: Literal["k", "n"] = knob("n", "k: free tokens among those of the prompt; n: free tokens alone")
    tokens: int = knob(16, "free tokens in form n, at most as many as fit", ge=1)
    every: int = knob(3, "tokens of the prompt between two free ones in form k", ge=1)
    iterations: int = knob(200, "steps of AdamW", ge=1, search=(50, 3000))
    lr: float = knob(0.1, "step size", gt=0, search=(1e-3, 1))
    weight_decay: float = knob(0.1, "decay of p in a step, as a share of the step size", ge=0)
    tries: int = knob(4, "times that all prompts are drawn, after equal shares of the steps", ge=1)

    def budget(self) -> str:
        """See `Attack.budget`."""
        return f"free tokens in form {self.form}, learnt in {self.iterations} steps, drawn {self.tries} times"

    def attempts(self, case: Case) -> Iterator[Attempt]:
        """See `Attack.attempts`."""
        x, told = case.memories(), case.clean.encode(prompts(case.ids))
        ids, free = self.opened(case.ids, case.clean.empty)
        table = case.victim.embeddings().detach()
        p = table[whole(len(table), ids.numel(), case.run.rng, ids.device).view_as(ids)].requires_grad_()
        opt = torch.optim.AdamW([p], self.lr, weight_decay=self.weight_decay)
        after = {self.iterations * (k + 1) // self.tries for k in range(self.tries)}
        for step in case.run.track(range(1, self.iterations + 1), "attack"):
            if not len(rows := case.open):
                break
            z, t, goal = point(case, x[rows], taken(told, rows))
            with torch.enable_grad():
                said = spoken(p[rows], ids[rows], free[rows], table)
                cond = case.victim.encode_embedded(read(p[rows], said, table), said)
                loss = (case.victim.predict(z, t, cond) - goal).square().flatten(1).mean(1)
                descend(opt, loss.sum())
            if step in after:
                yield rows, case.asked(spoken(p[rows], ids[rows], free[rows], table))

    def opened(self, ids: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts (N, L) for those of ids (N, L), and which of their tokens are free, (N, L).

        Args:
            ids: The prompts that are attacked.
            empty: The empty prompt, with shape (L,).
        """
        if self.form == "k":
            return spaced(ids, self.every)
        n = min(self.tokens, len(empty) - 3)
        place = torch.arange(len(empty), device=ids.device)
        said = prefixed(empty.to(ids.device)[None], n)
        return said.expand_as(ids), ((place > 0) & (place <= n)).expand_as(ids)


def point(case: Case, x: Tensor, told: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents of images x (N, *), times (N,), and what the original predicts there; see `P4D`."""
    t = case.victim.times(len(x), case.run.rng)
    z, goal = case.victim.noised(x, t, normal(x, case.run.rng))
    if case.victim.vae is case.clean.vae:
        with torch.no_grad():
            goal = case.clean.predict(z, t, told)
    return z, t, goal


def spoken(p: Tensor, ids: Tensor, free: Tensor, table: Tensor) -> Tensor:
    """Prompts (N, L) whose free tokens are those that vectors p (N, L, D) stand for."""
    said = ids.clone()
    said[free] = projected(p[free], table)
    return said


def read(p: Tensor, said: Tensor, table: Tensor) -> Tensor:
    """The embeddings (N, L, D) of tokens (N, L); what is to move them moves p."""
    return table[said] + (p - p.detach())


def projected(p: Tensor, table: Tensor) -> Tensor:
    """The row of `table` (V, D) with the most similar direction to each of p (F, D), with shape (F,).

    Example:
        >>> projected(torch.tensor([[3.0, 1.0]]), torch.tensor([[9.0, 9.0], [0.1, 0.0]]))
        tensor([1])
    """
    return (normalize(p, dim=1) @ normalize(table, dim=1).T).argmax(1)
