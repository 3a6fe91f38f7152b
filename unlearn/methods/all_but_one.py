"""All-but-one, surgical concept erasing."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from unlearn.data import Split
from unlearn.knobs import knob
from unlearn.method import Method
from unlearn.ops.erasure import TRAINED, Original, Trained, chosen, joined, taken
from unlearn.ops.freezing import only
from unlearn.ops.points import Plan, Sampling, paired, points
from unlearn.ops.steps import descend
from unlearn.registry import methods
from unlearn.runtime import Run
from unlearn.subject import Denoises, mode

Reference = Literal["student", "detached", "teacher"]


@methods.register("all-but-one")
class AllButOne(Method[Denoises]):
    """Trains away what guidance adds for the concept and no more (reconstructed).

    RECONSTRUCTED: no code of the authors was found, and of the paper only the abstract was read. It says that the
    score is split into the guidance by the prompt and the unconditional rest, that only the former is edited, and that
    the latter is held. The equations and all defaults below are ours, and results may differ from the paper's.

    With ε* the frozen original, ∅ the empty prompt, c a prompt of the concept and a its anchor, which is ∅ where no
    other concept takes its place,

        G* = ε*(x_t, t, a) − ε*(x_t, t, ∅),    G = ε(x_t, t, c) − ε(x_t, t, ∅),
        L = mean (G − G*)² + λ mean (ε(x_t, t, ∅) − ε*(x_t, t, ∅))²,

    minimised with Adam over some of the weights. x_t is denoised towards c with guidance from pure noise for k steps,
    k uniform over 0 to S − 1, by the original or by the weights in training.

    With `reference="detached"` no gradient goes through the ε(x_t, t, ∅) in G, so that λ alone moves the unconditional
    prediction; with `"teacher"` the ε* takes its place there.

    References:
        Hong et al., 2023, All but one: surgical concept erasing with model preservation in text-to-image diffusion
        models, arXiv:2312.12807
    """

    uses: ClassVar[frozenset[str]] = frozenset({"concept", "anchor"})
    expected_failures: ClassVar = {
        "concept": "On the embedded pipeline a fifth of the drawings still shows it at the largest steps that spare the neighbours.",
    }

    train: Trained = knob("x", TRAINED)
    iterations: int = knob(60, "steps of Adam", ge=1, search=(20, 1000))
    lr: float = knob(1e-3, "step size of Adam", gt=0, search=(1e-5, 2e-3))
    batch_size: int = knob(8, "latents in an iteration", ge=1)
    hold: float = knob(1.0, "weight λ of the unconditional prediction", ge=0, search=(0.1, 10.0))
    reference: Reference = knob(
        "student", "what guidance is counted from: own ε(∅), that without gradient, or the original's"
    )
    guidance: float = knob(3.0, "scale of guidance towards the concept while latents are sampled", ge=0)
    sampling: Sampling = knob("base", "who denoises the latents: original, or itself")
    pool: int = knob(160, "latents sampled beforehand by the original, at most those needed", ge=1)

    def unlearn(self, subject: Denoises, data: Split, run: Run) -> Denoises:
        """See `Method.unlearn`.

        Raises:
            BadData: If there is not one anchor for each concept, or all are equal to their concepts.
            Mismatch: If nothing of what is to train is in the model.
        """
        concept, anchor = paired(subject, data.concept, data.anchor)
        plan = Plan(self.iterations, self.batch_size, self.guidance, self.sampling, self.pool)
        losses = []
        with only(subject.module, chosen(subject, self.train)) as params, mode(subject.module, train=False):
            opt, original = torch.optim.Adam(params, self.lr), Original(params)
            batches = points(subject, concept, len(data.concept), plan, run)
            for z, t, row in run.track(batches, "unlearn", self.iterations):
                with torch.no_grad(), original():
                    goal = scores(subject, z, t, taken(anchor, row))
                terms = objective(scores(subject, z, t, taken(concept, row)), goal, self.reference)
                descend(opt, terms[0] + self.hold * terms[1])
                losses.append(torch.stack(terms).detach())
        for guidance, rest in torch.stack(losses).tolist():
            run.note(guidance_loss=guidance, unconditional_loss=rest)
        return subject


def scores(subject: Denoises, z: Tensor, t: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """ε(∅) and ε(c), each with the shape of z, in one pass.

    Args:
        subject: The model, with the weights it has now.
        z: Latents, with shape (B, *).
        t: Times, with shape (B,).
        cond: Conditioning c.
    """
    both = joined(subject.null(len(z)), cond)
    free, told = subject.predict(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
    return free, told


def objective(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], reference: Reference
) -> tuple[Tensor, Tensor]:
    """The two terms of L: of guidance, and of the unconditional prediction.

    Args:
        student: ε(∅) and ε(c) of the weights in training.
        teacher: ε*(∅) and ε*(a) of the original.
        reference: What the student's guidance is counted from.
    """
    start = {"student": student[0], "detached": student[0].detach(), "teacher": teacher[0]}[reference]
    guidance = mse_loss(student[1] - start, teacher[1] - teacher[0])
    return guidance, mse_loss(student[0], teacher[0])
