"""A method of your own: use it with `unlearn run gentle-ascent --plugin my_method.py`."""

from unlearn import Method, Run, Split, knob, methods
from unlearn.data import paced
from unlearn.ops.steps import descend, sgd
from unlearn.subject import HasLoss, mode


@methods.register("gentle-ascent")
class GentleAscent(Method[HasLoss]):
    """Climbs the forget loss up to a ceiling while it descends the retain loss.

    References:
        You, 2026, an example.
    """

    lr: float = knob(0.02, "step size", gt=0)
    epochs: int = knob(6, "passes over the forget set", ge=1)
    ceiling: float = knob(5.0, "forget loss above which nothing pushes, in nats", gt=0)

    def unlearn(self, subject: HasLoss, data: Split, run: Run) -> HasLoss:
        """Takes one step for each pair of batches."""
        opt = sgd(subject.module.parameters(), self.lr, momentum=0.9, weight_decay=0.0)
        with mode(subject.module, train=True):
            for _ in run.track(range(self.epochs), "unlearn"):
                for f, r in paced(data.forget, data.retain, 32, run.rng):
                    push = subject.loss(f, run.rng).clamp(max=self.ceiling).mean()
                    descend(opt, subject.loss(r, run.rng).mean() - push)
        return subject
