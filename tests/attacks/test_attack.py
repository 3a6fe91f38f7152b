"""How success is counted, what an attack is given, and when it is run again; all by hand."""

import math
import random

import pytest
import torch
from painters import FAILS, NOTHING, REVEALS, Painter, Scripted, evidence, scores
from tiny_case import IDS, case

from unlearn.attack import Attack
from unlearn.data import Resident
from unlearn.errors import Mismatch
from unlearn.evals.erasure import Erasure
from unlearn.registry import attacks, metrics
from unlearn.runtime import Run
from unlearn.score import Aim
from unlearn.sources import Arrays
from unlearn.testing.tiny import tensors
from unlearn.testing.verdicts import global_state


class Spy(Scripted):
    """Does what its test says."""

    does = staticmethod(lambda case: iter(()))

    def attempts(self, case):
        return type(self).does(case)


def spy(does):
    return type("Spied", (Spy,), {"does": staticmethod(does)})()


def test_success_without_and_with_the_attack_of_both_models():
    found = scores(Scripted(tokens=(REVEALS,), first=2), evidence(n=4, shown=1))
    pre, post = found["pre"], found["post"]
    assert (pre.value, pre.original, pre.reference) == (0.25, 1.0, 0.0)
    assert (post.value, post.original, post.reference) == (0.75, None, 0.0)
    assert post.n == 4
    assert post.aim is Aim.DOWN
    assert post.note == "budget: 1 tokens; share after each drawing: 0.75"
    assert [s.name for s in found.values()] == ["attack/scripted/pre", "attack/scripted/post"]


def test_what_shows_without_an_attack_is_what_erasure_counts_as_not_gone():
    ev = evidence(n=8, shown=3)
    gone = {s.name: s for s in Erasure().measure(ev)}["erasure/ua"]
    assert scores(Scripted(), ev)["pre"].value == 1 - gone.value


def test_an_attack_that_does_nothing_reaches_nothing():
    ev = evidence(n=4, shown=1)
    drawn = []

    def plain(case):
        drawn.append(case.draw(torch.arange(4), case.asked(case.ids)))
        yield torch.arange(4), case.asked(case.ids)

    found = scores(spy(plain), ev)
    assert found["post"].value == found["pre"].value == 0.25
    asks = ev.drawn.asks
    assert drawn[0].equal(ev.images("unlearned")[asks]), "the same noise for each prompt"
    assert drawn[1].equal(ev.images("oracle")[asks])


def test_a_prompt_keeps_its_noise_when_others_are_closed():
    ev, drawn = evidence(n=4, shown=0), []

    def some(case):
        rows = torch.tensor([3, 1])
        drawn.append(case.draw(rows, case.asked(case.ids[rows])))
        return iter(())

    scores(spy(some), ev)
    assert drawn[0].equal(ev.images("unlearned")[ev.drawn.asks][[3, 1]])


def test_later_failures_do_not_undo_a_success_and_prompts_that_succeeded_are_closed():
    left = []

    def alternate(case):
        for rows, token in (([1], REVEALS), ([1, 2], FAILS), ([3], REVEALS)):
            left.append(case.open.tolist())
            yield torch.tensor(rows), torch.full((len(rows),), token)
        left.append((case.open.tolist(), case.curve))

    assert scores(spy(alternate), evidence(n=4, shown=1))["post"].value == 0.75
    assert left[:4] == [[1, 2, 3], [2, 3], [2, 3], ([2], [0.5, 0.5, 0.75])]
    assert left[4:] == [[0, 1, 2, 3]] * 3 + [([0, 1, 2, 3], [0.0, 0.0, 0.0])], "the oracle never shows it"


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(108, 142, 0.6841, 0.8233), (0, 142, 0.0, 0.0263), (142, 142, 0.9737, 1.0)]
)
def test_intervals_are_wilsons(hits, n, low, high):
    found = scores(Scripted(tokens=(FAILS,)), evidence(n=n, shown=hits))["post"]
    assert found.value == hits / n
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_what_an_attack_is_given():
    ev = evidence(n=4, shown=1, others=3)
    seen = []
    scores(spy(lambda case: seen.append(case) or iter(())), ev)
    case = seen[0]
    assert case.ids.tolist() == [[0], [1], [2], [3]]
    assert case.others.tolist() == [[4], [5], [6]]
    assert case.paraphrases.shape == (0, 4, 1)
    assert case.hit.tolist() == [True, False, False, False]
    assert case.clean is ev.subjects["original"]
    assert case.victim is not ev.subjects["unlearned"]
    assert not any(p.requires_grad for p in case.victim.module.parameters())
    assert all(p.requires_grad for p in ev.subjects["unlearned"].module.parameters())


def test_paraphrases_come_by_wording_then_prompt():
    ev, seen = evidence(n=2), []
    y = torch.tensor([10, 11, 20, 21, 30, 31])[:, None]
    ev.handles["paraphrases"] = Resident(Arrays(torch.zeros(6, 0), y))
    scores(spy(lambda case: seen.append(case.paraphrases) or iter(())), ev)
    assert seen[0][:, :, 0].tolist() == [[10, 11], [20, 21], [30, 31]]


def test_the_models_stay_as_they_were():
    ev = evidence()
    before = {who: s.module.weight.clone() for who, s in ev.subjects.items()}

    def vandal(case):
        assert not case.victim.module.training
        case.victim.module.weight.data.zero_()
        yield case.open, case.asked(case.ids[case.open])

    for s in ev.subjects.values():
        s.module.train()
    scores(spy(vandal), ev)
    for who, s in ev.subjects.items():
        assert s.module.weight.equal(before[who])
        assert s.module.training


def test_what_a_library_draws_globally_is_seeded_and_leaves_no_trace():
    drawn = []

    def globally(case):
        drawn.append((float(torch.rand(())), random.random()))
        return iter(())

    ev = evidence()
    before = global_state()
    scores(spy(globally), ev)
    assert global_state() == before
    assert drawn[0] == drawn[1], "the unlearned model and the oracle"


def test_images_are_repeated_where_there_are_fewer():
    seen = []
    scores(spy(lambda case: seen.append(case.images(5)) or iter(())), evidence())
    x, y = seen[0]
    assert x[:, 0].tolist() == y[:, 0].tolist() == [0, 1, 2, 0, 1]


def test_an_oracle_gets_the_same_images_through_its_own_autoencoder(monkeypatch):
    monkeypatch.setattr(Painter, "pictures", lambda self, z: z + 10, raising=False)
    monkeypatch.setattr(Painter, "latents", lambda self, images: images * 2, raising=False)
    ev, seen = evidence(), []
    ev.subjects["oracle"].vae = "its own"
    scores(spy(lambda case: seen.append(case.images(2)[0][:, 0].tolist()) or iter(())), ev)
    assert seen == [[0.0, 1.0], [20.0, 22.0]]


def test_without_images_the_clean_model_draws_them_and_only_those_that_show_the_concept_count():
    one, seen = case(), []
    before = tensors(one.victim)

    def shows(images):
        seen.append(images)
        return images.flatten(1).mean(1) > images.mean()

    one.real, one.shows = None, shows
    x, y = one.images(10)
    (images,) = seen
    rows = shows(images).nonzero().flatten()
    assert images.shape == (10, 3, 8, 8) and 0 < len(rows) < 10
    again = torch.arange(10) % len(rows)
    assert y.equal(IDS[rows % len(IDS)][again]), "each with the prompt that it was drawn for"
    assert torch.allclose(x, one.victim.latents(images[rows])[again])
    assert all(before[n].equal(t) for n, t in tensors(one.victim).items())
    one.run = Run(one.run.seed)
    assert one.images(10)[0].equal(x), "the same from the same seed"


def test_what_is_not_finite_or_nothing_shows_nothing():
    ev = evidence(n=2, shown=0)
    ev.subjects["unlearned"].table.update({-50: float("nan"), -51: NOTHING})
    assert scores(Scripted(tokens=(-50, -51), first=0), ev)["post"].value == 0
    assert scores(Scripted(tokens=(-50, -51, REVEALS), first=0), ev)["post"].value == 1


def test_without_an_oracle_there_is_no_reference():
    ev = evidence()
    del ev.subjects["oracle"]
    assert all(s.reference is None for s in scores(Scripted(tokens=(REVEALS,)), ev).values())


def test_what_is_missing_is_said():
    one = case()
    one.real, one.shows = None, lambda images: torch.zeros(len(images), dtype=torch.bool)
    with pytest.raises(Mismatch, match=r"needs images that show the concept.* sees it in no drawing"):
        one.images(3)
    ev = evidence()
    with pytest.raises(Mismatch, match="scripted measures what Prompted"):
        Scripted().score_of(ev)


class Shelf:
    """A cache that remembers what it was asked for."""

    def __init__(self):
        self.kept, self.made = {}, 0

    def __call__(self, who, where, make, what=""):
        if (who, where, what) not in self.kept:
            self.made += "scripted" in what
            self.kept[who, where, what] = make()
        return self.kept[who, where, what]


def test_an_attack_runs_again_only_where_something_that_decides_it_differs():
    shelf = Shelf()

    def runs(attack=None, reworded=False, shown=1):
        before, ev = shelf.made, evidence(cache=shelf, shown=shown)
        if reworded:
            ev.handles["paraphrases"] = Resident(Arrays(torch.zeros(4, 0), torch.zeros(4, 1)))
        scores(attack or Scripted(tokens=(REVEALS,)), ev)
        return shelf.made - before

    assert runs() == 2, "the unlearned model and the oracle"
    assert runs() == 0
    assert runs(Scripted(tokens=(REVEALS,), first=2)) == 2
    assert runs(reworded=True) == 2
    assert runs() == runs(reworded=True) == 0
    shelf.kept = {
        k: v for k, v in shelf.kept.items() if k[2]
    }  # other drawings, or another judge of the same ones
    assert runs(shown=2) == 1, "the oracle's drawings show what they did"
    assert runs(shown=2) == 0


def test_another_seed_tries_something_else():
    def chance(case):
        yield case.open, torch.randint(100, 1000, case.open.shape, generator=case.run.rng)

    def tried(seed):
        found = []

        def watched(case):
            for rows, cond in chance(case):
                found.append(cond.tolist())
                yield rows, cond

        scores(spy(watched), evidence(seed=seed))
        return found

    assert tried(0) == tried(0)
    assert tried(0) != tried(1)


def test_no_attack_has_the_name_of_a_metric():
    assert not set(attacks.names()) & set(metrics.names())
    assert all(issubclass(attacks.get(n), Attack) for n in attacks.names())
    assert not any(issubclass(metrics.get(n), Attack) for n in metrics.names())


def test_large_sets_are_drawn_some_at_a_time(monkeypatch):
    sizes = []
    plain = Painter.draw_from
    monkeypatch.setattr(Painter, "draw_from", lambda s, c, z: sizes.append(len(c)) or plain(s, c, z))
    ev = evidence(n=70, shown=0)
    for who in ev.subjects:
        ev.images(who)
    sizes.clear()
    assert math.isclose(scores(Scripted(tokens=(REVEALS,), first=60), ev)["post"].value, 10 / 70)
    scores(Scripted(tokens=(REVEALS,), first=0), ev)
    assert sizes[2:5] == [32, 32, 6]
