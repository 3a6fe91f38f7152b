"""Chooses the default hyper-parameters of methods on validation data of an embedded scenario.

    python bench/tune.py salun ssd --store /tmp/store
    python bench/tune.py i2i --subject image-to-image

Every method gets the same budget: its current default and `--trials` draws, log-uniform over the search range
that each hyper-parameter declares. A classifier's trial is judged on two class removals, a random tenth and label noise,
with seeds that no results page uses, by the mean distance to the oracle of four numbers: accuracy on the forget set, on
the retain set and on validation data, and the AUC of the loss attack of forget against validation examples. Other models
have the mean loss as a multiple of the oracle's, at most 2, in place of accuracy. What draws is judged by what it draws: the
share of drawings in which the concept is gone, and of the others that are right. Test data and the data that fit attacks
are never read. A method that removes whole classes only is judged on those. All trials are written to docs/results/tuning/.
"""

import argparse
import itertools
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from unlearn import api
from unlearn.bench import Bench
from unlearn.crowds import Crowds
from unlearn.errors import Mismatch
from unlearn.knobs import Declared
from unlearn.labels import between
from unlearn.ops.steps import accuracy
from unlearn.pool import Pool
from unlearn.provenance import environment
from unlearn.registry import fitting, methods, metrics
from unlearn.scenario import Seeds, Trial
from unlearn.scenario import parse as scenario
from unlearn.subject import Classifies, Draws, mode

PLACES = {
    "classifier": ("digits/class=1", "digits/class=8", "digits/random=0.1", "digits/noisy,noise=0.1"),
    "recorded-classifier": (
        "digits/class=1,deletable=updates", "digits/class=8,deletable=updates", "digits/random=0.1,deletable=updates",
        "digits/random=0.01,deletable=updates", "digits/noisy,noise=0.1,deletable=updates",
    ),
    "dual-encoder": ("digits-clip/class=one", "digits-clip/class=eight", "digits-clip/random=0.1"),
    "image-to-image": ("digits-completion/class=1", "digits-completion/class=8", "digits-completion/random=0.1"),
    "class-to-image": ("digits-ddpm/concept=1,epochs=50,drawings=10", "digits-ddpm/concept=8,epochs=50,drawings=10"),
    "regressor": ("diabetes/range=25:80", "diabetes/range=200:350", "diabetes/random=0.1"),
}  # fmt: skip
WORST = 2.0
"""Times the oracle's loss beyond which more is no worse."""
SEEDS = (100, 101)
OUT = Path(__file__).parents[1] / "docs" / "results" / "tuning"


def draw(cls: type[Declared], rng: random.Random) -> dict[str, float | int]:
    """One point of the declared search space."""
    values = {}
    for k in cls.knobs():
        if k.search:
            low, high = k.search
            value = (
                math.exp(rng.uniform(math.log(low), math.log(high))) if low > 0 else rng.uniform(low, high)
            )
            values[k.name] = round(value) if k.type is int else float(f"{value:.2g}")
    return values


@torch.inference_mode()
def losses(subject, handle):
    with mode(subject.module, train=False):
        return torch.cat([subject.loss(b) for b in handle.batches(512)]).nan_to_num(posinf=1e6).numpy()


def among(labels, trial):
    """Which examples with these labels are like the forgotten ones: of a class or a range that is forgotten whole."""
    low, high = (getattr(trial.request, name, None) for name in ("low", "high"))
    if low is not None:
        return between(labels.y, low, high, str(trial.request))
    return torch.isin(labels.y, torch.tensor(trial.removed, dtype=labels.y.dtype))


def scores(subject, trial, gone):
    """What is known on forget, retain and validation data that are to be kept, and the loss attack's AUC."""
    validation = trial.handles["validation"]
    kept = validation.take(validation.rows[~gone])
    alike = validation.take(validation.rows[gone]) if gone.any() else validation
    handles = {"forget": trial.handles["forget"], "retain": trial.handles["retain"], "validation": kept}
    classifies = isinstance(subject, Classifies)
    known = accuracy if classifies else lambda s, h: float(losses(s, h).mean())
    found = {name: known(subject, handle) for name, handle in handles.items()}
    f, v = losses(subject, trial.handles["forget"]), losses(subject, alike)
    found["auc"] = float(roc_auc_score([1] * len(f) + [0] * len(v), [*(-f), *(-v)]))
    return found


def distance(values, reference, classifies=True):
    """Mean difference of the numbers; losses as multiples of the oracle's."""
    if classifies:
        return sum(abs(values[k] - reference[k]) for k in reference) / len(reference)
    times = [min(abs(values[k] / reference[k] - 1), WORST) for k in reference if k != "auc"]
    return (sum(times) + abs(values["auc"] - reference["auc"])) / len(reference)


@dataclass
class Answering:
    """A trial of a model that is judged by its answers.

    Attributes:
        bench: Where to run.
        trial: The trial.
        gone: Which validation examples are like the forgotten ones.
        reference: The oracle's numbers.
    """

    bench: Bench
    trial: Trial
    gone: torch.Tensor
    reference: dict[str, float]

    @property
    def idle(self):
        """Distance of the original to the oracle."""
        return self._distance(self.trial.original)

    def judge(self, method):
        """Distance to the oracle of what a method makes."""
        return self._distance(self.bench._call(self.trial, method)[0])

    def _distance(self, subject):
        found = scores(subject, self.trial, self.gone)
        return distance(found, self.reference, isinstance(subject, Classifies))


@dataclass
class Drawing:
    """A trial of a model that is judged by its drawings; attributes as of `Answering`."""

    bench: Bench
    pool: Pool
    seeds: Seeds
    idle: float = math.nan

    def judge(self, method):
        """Distance to the oracle of what a method makes."""
        ((report, _),) = self.bench.run(self.pool, method, [metrics.get("erasure")()], self.seeds)
        found = [report.score(f"erasure/{what}") for what in ("ua", "in-domain")]
        self.idle = sum(abs(s.original - s.reference) for s in found) / len(found)
        return sum(abs(s.value - s.reference) for s in found) / len(found)


def judge(method, trials):
    """Mean distance to the oracle over all places and seeds that the method does not refuse, with the parts."""
    parts = {}
    for name, trial in trials.items():
        try:
            parts[name] = trial.judge(method)
        except Mismatch as err:
            print(f"{method.name} on {name}: {err}", flush=True)
    return sum(parts.values()) / len(parts), parts


def prepared(subject, bench):
    """Trials by name."""
    found = {}
    for text, seed in itertools.product(PLACES[subject], SEEDS):
        pool, seeds = Pool(scenario(text), bench.store, bench.device), Seeds(seed, seed, seed)
        if isinstance(pool.template, Draws):
            found[f"{text} seed {seed}"] = Drawing(bench, pool, seeds)
            continue
        trial = pool.trial(seeds)
        trial.lenders = Crowds(pool, trial, bench._model)
        gone = among(pool.material.validation.labels, trial)
        found[f"{text} seed {seed}"] = Answering(bench, trial, gone, scores(trial.oracles[0], trial, gone))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", default=None)
    parser.add_argument("--subject", choices=PLACES, default="classifier")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--store", type=Path, default=None)
    args = parser.parse_args()
    bench = api.bench(args.store, "cpu")
    trials = prepared(args.subject, bench)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in args.methods or fitting(args.subject):
        record = tuned(methods.get(name), trials, args.trials)
        (OUT / f"{name}.json").write_text(json.dumps(record, indent=1))


def tuned(cls, trials, draws):
    """The record of a method's default and some draws, each judged everywhere."""
    rng, tried = random.Random(0), []
    for values in [{}, *(draw(cls, rng) for _ in range(draws))]:
        if values == {} and tried:
            continue
        mean, parts = judge(cls(**values), trials)
        tried.append({"values": values, "distance": mean, "parts": parts})
    best = min(tried, key=lambda t: t["distance"])
    nothing = sum(trials[n].idle for n in best["parts"]) / len(best["parts"])
    print(
        f"{cls.name:14} nothing {nothing:.3f}  default {tried[0]['distance']:.3f}  best {best['distance']:.3f}  {best['values']}",
        flush=True,
    )
    return {"method": cls.name, "default": cls().to_dict(), "do_nothing": nothing, "best": best["values"],
            "trials": tried, "environment": environment()}  # fmt: skip


if __name__ == "__main__":
    main()
