"""Words before a prompt that bring an erased concept back, found by the erased model itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from unlearn.attack import Attack, Attempt, Case
from unlearn.knobs import knob
from unlearn.ops.prompts import prefixed
from unlearn.ops.steps import descend
from unlearn.ops.verbs import normal
from unlearn.registry import attacks

DRAWS = 4096  # times drawn to see how they spread


@attacks.register("unlearn-diff-atk")
class UnlearnDiffAtk(Attack):
    """Searches tokens to put before a prompt with which the erased model denoises an image of the concept.

    The weights stay as they are. Each of K tokens before each prompt has a distribution π over the vocabulary. With a
    token u drawn from it, whose gradient is taken for that of π, and with the embeddings E of all tokens,

        L = mean (f(z_t, t, [u E; prompt]) − target)²,    π ← P(Adam(π, ∂L/∂u))

    where z is what the original draws for the prompt and P projects onto the simplex. The times t come one after the
    other, from little noise to much, each for some steps; after each, the likeliest tokens are drawn.

    References:
        Zhang et al., 2023, To generate or not? Safety-driven unlearned diffusion models are still easy to generate
        unsafe images ... for now, arXiv:2310.11868
        Duchi et al., 2008, Efficient projections onto the l1-ball for learning in high dimensions, ICML

    Differences from the authors' released code:
        Theirs takes 50 times from 10 to 990, with 3 tokens for objects, bisects for the threshold of the projection to
        within 1e-5, clips ∂L/∂u to [-1, 1], and draws the text that the tokens spell, which may be read as other
        tokens. Ours finds the threshold exactly, clips nothing and draws the tokens themselves.
    """

    tokens: int = knob(5, "tokens before the prompt", ge=1)
    times: int = knob(5, "times, from little noise to much, after each of which the prompts are drawn", ge=1)
    iterations: int = knob(40, "steps of Adam at each time", ge=1, search=(10, 100))
    lr: float = knob(0.01, "step size", gt=0, search=(1e-3, 0.1))
    weight_decay: float = knob(0.1, "pull of the probabilities towards zero, before the projection", ge=0)

    def budget(self) -> str:
        """See `Attack.budget`."""
        return (
            f"{self.tokens} tokens before each prompt, {self.iterations} steps at each of {self.times} times, "
            f"drawn {self.times} times"
        )

    def attempts(self, case: Case) -> Iterator[Attempt]:
        """See `Attack.attempts`."""
        x = case.memories()
        ids, size = prefixed(case.ids, self.tokens), len(case.victim.embeddings())
        pi = torch.full((len(ids), self.tokens, size), 1 / size, device=ids.device, requires_grad=True)
        opt = torch.optim.Adam([pi], self.lr, weight_decay=self.weight_decay)
        for t in case.run.track(spread_times(case, self.times), "attack"):
            if not len(rows := case.open):
                break
            for _ in range(self.iterations):
                with torch.enable_grad():
                    descend(opt, denoising_loss(case, x[rows], t, ids[rows], pi[rows]))
                with torch.no_grad():
                    pi.copy_(on_simplex(pi))
            yield rows, case.asked(with_prefix(ids[rows], pi[rows].argmax(2)))


def spread_times(case: Case, n: int) -> Tensor:
    """The middles of n equal shares of the times of training, in order, with shape (n,)."""
    drawn = case.victim.times(DRAWS, case.run.rng).sort().values
    return drawn[(2 * torch.arange(n, device=drawn.device) + 1) * DRAWS // (2 * n)]


def denoising_loss(case: Case, x: Tensor, t: Tensor, ids: Tensor, pi: Tensor) -> Tensor:
    """Sum over prompts of the mean squared error of the victim at one time.

    Args:
        case: The victim, and the source of noise and tokens.
        x: An image for each prompt, as latents, with shape (N, *).
        t: The time.
        ids: The prompts behind K tokens of room, with shape (N, L).
        pi: Distributions of these tokens, with shape (N, K, V).
    """
    z, goal = case.victim.noised(x, t.expand(len(x)), normal(x, case.run.rng))
    u = drawn_token(pi, case.run.rng)
    said = with_prefix(ids, u.argmax(2))
    table = case.victim.embeddings().detach()
    embedded = table[said]
    embedded = torch.cat([embedded[:, :1], u.to(table) @ table, embedded[:, pi.shape[1] + 1 :]], 1)
    out = case.victim.predict(z, t.expand(len(x)), case.victim.encode_embedded(embedded, said))
    return (out - goal).square().flatten(1).mean(1).sum()


def with_prefix(ids: Tensor, tokens: Tensor) -> Tensor:
    """Prompts (N, L) with tokens (N, K) in the room behind the begin token."""
    return torch.cat([ids[:, :1], tokens, ids[:, tokens.shape[1] + 1 :]], 1)


def drawn_token(pi: Tensor, rng: Generator) -> Tensor:
    """One-hot samples of distributions (*, V), with the shape of pi; their gradient goes to pi as it is."""
    drawn = torch.multinomial(pi.detach().flatten(0, -2), 1, generator=rng).view(pi.shape[:-1])
    return one_hot(drawn, pi.shape[-1]).to(pi) + (pi - pi.detach())


def on_simplex(x: Tensor) -> Tensor:
    """The nearest distribution to each row of x (*, V): max(x − τ, 0), with τ such that it sums to one.

    Example:
        >>> on_simplex(torch.tensor([0.5, 1.0, -2.0]))
        tensor([0.2500, 0.7500, 0.0000])
    """
    largest = x.sort(descending=True).values
    # The threshold of the k largest, (their sum − 1) / k, rises until these are the ones that stay above zero.
    tau = (largest.cumsum(-1) - 1) / torch.arange(1, x.shape[-1] + 1, device=x.device)
    return (x - tau.amax(-1, keepdim=True)).clamp_min(0)
