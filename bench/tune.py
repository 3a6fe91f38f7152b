"""Chooses the default hyper-parameters of methods on validation data of the embedded scenario.

    python bench/tune.py salun ssd --store /tmp/store

Every method gets the same budget: its current default and `--trials` draws, log-uniform over the search range
that each hyper-parameter declares. A trial is judged on two class removals, a random tenth and label noise, with
seeds that no results page uses, by the mean distance to the oracle of four numbers: accuracy on the forget set, on
the retain set and on validation data, and the AUC of the loss attack of forget against validation examples. Test
data and the data that fit attacks are never read. A method that removes whole classes only is judged on those. All
trials are written to docs/results/tuning/.
"""

import argparse
import itertools
import json
import math
import random
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from unlearn import api
from unlearn.errors import Mismatch
from unlearn.knobs import Declared
from unlearn.ops.steps import accuracy
from unlearn.pool import Pool
from unlearn.provenance import environment
from unlearn.registry import fitting, methods
from unlearn.scenario import Seeds
from unlearn.scenario import parse as scenario
from unlearn.subject import mode

PLACES = ("digits/class=1", "digits/class=8", "digits/random=0.1", "digits/noisy,noise=0.1")
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


def scores(subject, trial):
    """Accuracy on forget, retain and validation data of kept classes, and the loss attack's AUC."""
    found = {name: accuracy(subject, trial.handles[name]) for name in ("forget", "retain")}
    validation = trial.handles["validation"]
    gone = torch.isin(validation.y, torch.tensor(trial.removed, dtype=torch.long))
    found["validation"] = accuracy(subject, validation.take(validation.rows[~gone]))
    alike = validation.take(validation.rows[gone]) if gone.any() else validation
    f, v = losses(subject, trial.handles["forget"]), losses(subject, alike)
    found["auc"] = float(roc_auc_score([1] * len(f) + [0] * len(v), [*(-f), *(-v)]))
    return found


def distance(values, reference):
    return sum(abs(values[k] - reference[k]) for k in reference) / len(reference)


def judge(method, trials, bench):
    """Mean distance to the oracle over all places and seeds that the method does not refuse, with the parts."""
    parts = {}
    for name, (trial, reference) in trials.items():
        try:
            done, _ = bench._call(trial, method)
        except Mismatch as err:
            print(f"{method.name} on {name}: {err}", flush=True)
            continue
        parts[name] = distance(scores(done, trial), reference)
    return sum(parts.values()) / len(parts), parts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", default=None)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--store", type=Path, default=None)
    args = parser.parse_args()
    bench = api.bench(args.store, "cpu")
    trials = {}
    for text, seed in itertools.product(PLACES, SEEDS):
        trial = Pool(scenario(text), bench.store, bench.device).trial(Seeds(seed, seed, seed))
        trials[f"{text} seed {seed}"] = trial, scores(trial.oracles[0], trial)
    idle = {n: distance(scores(t.original, t), r) for n, (t, r) in trials.items()}
    OUT.mkdir(parents=True, exist_ok=True)
    for name in args.methods or fitting("classifier"):
        cls, rng = methods.get(name), random.Random(0)
        tried = []
        for values in [{}, *(draw(cls, rng) for _ in range(args.trials))]:
            if values == {} and tried:
                continue
            mean, parts = judge(cls(**values), trials, bench)
            tried.append({"values": values, "distance": mean, "parts": parts})
        best = min(tried, key=lambda t: t["distance"])
        nothing = sum(idle[n] for n in best["parts"]) / len(best["parts"])
        record = {"method": name, "default": cls().to_dict(), "do_nothing": nothing, "best": best["values"],
                  "trials": tried, "environment": environment()}  # fmt: skip
        (OUT / f"{name}.json").write_text(json.dumps(record, indent=1))
        print(
            f"{name:14} nothing {nothing:.3f}  default {tried[0]['distance']:.3f}  best {best['distance']:.3f}  {best['values']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
