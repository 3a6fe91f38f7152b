"""Class-conditional diffusion: losses and sampling against formulas, and the scenario that trains it on digits."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unlearn import api
from unlearn.data import Batch, Resident
from unlearn.errors import BadValue
from unlearn.ops.adamw import AdamW
from unlearn.ops.ink import scans
from unlearn.pool import Pool
from unlearn.runtime import Run
from unlearn.scenario import Seeds, Shelf, from_recipe, parse
from unlearn.sources import Arrays
from unlearn.store import Store
from unlearn.subject import Noises, Relabels, mode
from unlearn.testing.tiny import specimen

CPU = torch.device("cpu")
QUICK = "epochs=1,steps=2,drawings=2"
ALPHA_BAR = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def exact(seed=7):
    """The tiny model in double precision, and five examples of all its classes."""
    subject = specimen("ddpm").copy().subject
    subject.module.double()
    x = torch.randn(5, 1, 8, 8, generator=rng(seed), dtype=torch.float64)
    return subject, Batch(x, torch.tensor([0, 1, 2, 3, 3]), torch.arange(5))


def noisy(x, seed):
    """x_t, t and noise as a generator of this seed gives them, by the formula."""
    g = rng(seed)
    t, noise = torch.randint(0, 1000, (len(x),), generator=g), torch.randn(x.shape, generator=g).double()
    a = ALPHA_BAR[t].view(-1, 1, 1, 1)
    return a.sqrt() * x + (1 - a).sqrt() * noise, t, noise


class Heard(nn.Module):
    """A network that predicts zero and remembers the labels that it was told."""

    def __init__(self):
        super().__init__()
        self.weight, self.labels = nn.Parameter(torch.zeros(1)), []

    def forward(self, z, t, class_labels):
        self.labels.append(class_labels)
        return SimpleNamespace(sample=z * self.weight)


class Knows(nn.Module):
    """The best network for data that are one image: it sees exactly the noise."""

    def __init__(self, x):
        super().__init__()
        self.x, self.weight = x, nn.Parameter(torch.zeros(1))

    def forward(self, z, t, class_labels):
        a = ALPHA_BAR[t].view(-1, 1, 1, 1).to(z)
        return SimpleNamespace(sample=(z - a.sqrt() * self.x) / (1 - a).sqrt())


class TestLosses:
    def test_the_loss_is_that_of_the_noise(self):
        s, b = exact()
        z, t, noise = noisy(b.x, 4)
        seen = s.module(z, t, class_labels=b.y).sample
        torch.testing.assert_close(
            s.loss(b, rng(4)), (seen - noise).square().mean((1, 2, 3)), rtol=1e-5, atol=0
        )

    def test_the_relabelled_loss_is_that_of_the_next_class_and_the_first_follows_the_last(self):
        s, b = exact()
        z, t, _ = noisy(b.x, 4)
        with torch.no_grad():
            goal = s.module(z, t, class_labels=torch.tensor([1, 2, 3, 0, 0])).sample
        wanted = (s.module(z, t, class_labels=b.y).sample - goal).square().mean((1, 2, 3))
        torch.testing.assert_close(s.relabeled_loss(b, rng(4)), wanted, rtol=1e-4, atol=0)

    def test_no_gradient_goes_through_the_target(self):
        s, b = exact()
        z, t, _ = noisy(b.x, 4)
        teacher = copy.deepcopy(s.module).requires_grad_(False)
        goal = teacher(z, t, class_labels=(b.y + 1) % 4).sample
        wanted = (s.module(z, t, class_labels=b.y).sample - goal).square().mean()
        params = list(s.module.parameters())
        ours, theirs = (torch.autograd.grad(v, params) for v in (s.relabeled_loss(b, rng(4)).mean(), wanted))
        for a, c in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, c, rtol=1e-3, atol=1e-8)

    def test_the_pseudo_label_does_not_depend_on_the_image(self):
        subject = replace(specimen("ddpm").subject, module=Heard().eval())
        y = torch.tensor([0, 1, 2, 3])
        for x in (torch.zeros(4, 1, 8, 8), torch.randn(4, 1, 8, 8, generator=rng())):
            subject.relabeled_loss(Batch(x, y, torch.arange(4)), rng())
        assert [told.tolist() for told in subject.module.labels] == [[1, 2, 3, 0], [0, 1, 2, 3]] * 2

    def test_a_tenth_of_the_labels_is_dropped_in_training(self):
        subject = replace(specimen("ddpm").subject, module=Heard())
        n = 20_000
        b = Batch(torch.zeros(n, 1, 1, 1), torch.arange(n) % 4, torch.arange(n))
        with mode(subject.module, train=True):
            subject.loss(b, rng())
            subject.relabeled_loss(b, rng(1))
        loss, teacher, student = subject.module.labels
        lost = [told == 4 for told in (loss, teacher, student)]
        for told, gone, own in zip((loss, teacher, student), lost, (b.y, (b.y + 1) % 4, b.y), strict=True):
            assert torch.equal(told[~gone], own[~gone])
            assert float(gone.double().mean()) == pytest.approx(0.1, abs=4 * (0.09 / n) ** 0.5)
        both = (lost[1] & lost[2]).double().mean()
        assert float(both) == pytest.approx(0.01, abs=4 * (0.0099 / n) ** 0.5), "drawn independently"

    def test_no_label_is_dropped_in_evaluation_or_where_nothing_is_drawn(self):
        subject = replace(specimen("ddpm").subject, module=Heard())
        b = Batch(torch.zeros(500, 1, 1, 1), torch.arange(500) % 4, torch.arange(500))
        with mode(subject.module, train=False):
            subject.loss(b, rng())
        with mode(subject.module, train=True):
            subject.loss(b)
        assert all(torch.equal(told, b.y) for told in subject.module.labels)


class TestSampling:
    def test_a_trajectory_is_that_of_the_schedulers_own_loop(self):
        from diffusers import DDIMScheduler

        s, b = exact()
        told, scale = b.y, 2.5
        ddim = DDIMScheduler.from_config(s.scheduler.config)
        ddim.set_timesteps(s.steps)
        z = torch.randn(5, 1, 8, 8, generator=rng(3)).double()
        with torch.no_grad():
            for t in ddim.timesteps[:3]:
                free, seen = (s.module(z, t, class_labels=c).sample for c in (torch.full((5,), 4), told))
                z = ddim.step((1 - scale) * free + scale * seen, t, z).prev_sample
        found, reached = s.trajectory(told, 3, scale, rng(3))
        torch.testing.assert_close(found, z, rtol=1e-8, atol=1e-8)
        assert reached.tolist() == [int(ddim.timesteps[3])] * 5

    def test_a_perfect_network_draws_its_only_image(self):
        x = torch.linspace(-0.9, 0.9, 64).view(1, 1, 8, 8).double()
        for guidance in (0.0, 1.0, 3.0):
            s = replace(specimen("ddpm").subject, module=Knows(x).double(), steps=10, guidance=guidance)
            b = Batch(torch.zeros(3, 0), torch.arange(3), torch.arange(3))
            torch.testing.assert_close(s.sample(b, rng()), x.expand(3, -1, -1, -1), rtol=0, atol=1e-3)

    def test_drawings_are_grey_images_in_three_channels(self):
        s = specimen("ddpm").subject
        b = Batch(torch.zeros(3, 0), torch.arange(3), torch.arange(3))
        x, images = s.sample(b, rng()), s.draw(b, rng())
        assert x.shape == (3, 1, 8, 8)
        assert images.shape == (3, 3, 8, 8)
        assert torch.equal(images[:, :1], ((x + 1) / 2).clamp(0, 1))
        assert torch.equal(images[:, 0], images[:, 2])

    def test_classes_enter_through_the_maps_that_erasing_methods_train(self):
        s = specimen("ddpm").copy().subject
        parts = s.parts()
        z, t = torch.randn(2, 1, 8, 8, generator=rng()), torch.tensor([500, 500])
        with torch.no_grad():
            for p in parts["cross-attention-kv"].parameters():
                p.zero_()
            one, other = (s.predict(z, t, torch.tensor([c, c])) for c in (0, 3))
        assert torch.equal(one, other)
        names = {
            n
            for n, p in s.module.named_parameters()
            if any(p is q for q in parts["cross-attention"].parameters())
        }
        assert {n.split(".")[-2] for n in names} == {"class_embedding", "time_emb_proj"}


class TestTraining:
    def test_adamw_is_torchs_own_with_one_cycle(self):
        s, x = exact()[0], torch.randn(6, 1, 8, 8, generator=rng())
        handle, recipe = Resident(Arrays(x, torch.arange(6) % 4)), AdamW(epochs=2, lr=0.01, batch_size=4)
        twin, run = s.clone(), Run(3, CPU)
        opt = torch.optim.AdamW(twin.module.parameters(), lr=0.01, weight_decay=1e-4)
        plan = torch.optim.lr_scheduler.OneCycleLR(opt, 0.01, total_steps=5)
        with mode(twin.module, train=True):
            for _ in range(2):
                for b in handle.batches(4, run.rng):
                    opt.zero_grad()
                    twin.loss(b, run.rng).mean().backward()
                    opt.step()
                    plan.step()
        recipe.fit(s, handle, Run(3, CPU))
        for ours, theirs in zip(s.module.parameters(), twin.module.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
            assert ours.grad is None
        assert recipe.describe() == {
            "recipe": "adamw",
            "epochs": 2,
            "lr": 0.01,
            "batch_size": 4,
            "weight_decay": 1e-4,
        }


class TestScenario:
    def test_images_are_the_digits_between_minus_one_and_one(self):
        material, digits = parse("digits-ddpm").material(), parse("digits").material()
        x = next(Shelf(material, CPU).of(material.train).batches(64)).x
        assert (float(x.min()), float(x.max())) == (-1, 1)
        for name in ("train", "validation", "fit", "test"):
            assert torch.equal(getattr(material, name).rows, getattr(digits, name).rows)
        assert material.content == digits.content

    def test_classes_and_concepts_are_the_same_to_it(self):
        by_class, by_concept = (parse(f"digits-ddpm/{r}=3,drawings=2") for r in ("class", "concept"))
        for s in (by_class, by_concept):
            sets, gallery = s.prompts(s.request), s.gallery(s.request)
            assert {n: v.y.tolist() for n, v in sets.items() if n != "prompts"} == {
                "concept": [3], "anchor": [10], "preserve": [0, 1, 2, 4, 5, 6, 7, 8, 9]
            }  # fmt: skip
            assert torch.equal(gallery.asked["digit"], sets["prompts"].y)
            assert sets["prompts"].y.bincount().tolist() == [2] * 10
            assert gallery.captions[6:8] == ("class 3", "class 3")
            assert gallery.concept == "3"

    def test_where_no_class_is_named_nothing_is_drawn(self):
        s = parse("digits-ddpm/random=0.1")
        assert s.prompts(s.request) == {}
        assert s.gallery(s.request) is None

    def test_an_unknown_digit_is_one_line(self):
        s = parse("digits-ddpm/class=12")
        with pytest.raises(BadValue, match="no class called '12'"):
            s.prompts(s.request)

    def test_it_survives_json(self):
        s = parse(f"digits-ddpm/class=3,{QUICK}")
        assert from_recipe(s.recipe()) == s
        assert str(s) == f"digits-ddpm/class=3,{QUICK}"

    def test_its_model_offers_what_salun_and_esd_need(self):
        subject = parse("digits-ddpm/class=3,guidance=3.0").subject(rng())
        assert isinstance(subject, Relabels)
        assert isinstance(subject, Noises)
        assert (subject.guidance, subject.steps, subject.classes) == (3.0, 25, 10)
        assert subject.module.class_embedding.num_embeddings == 11

    def test_the_judge_is_right_on_held_out_scans_and_sees_nothing_in_noise(self):
        s = parse("digits-ddpm")
        judge = s.gallery(s.request).judges["digit"]
        _, (x, y) = scans()
        seen = judge(x[:, None].expand(-1, 3, -1, -1)).argmax(1)
        assert float((seen == y).double().mean()) >= 0.97
        noise = torch.rand(500, 1, 8, 8, generator=rng()).expand(-1, 3, -1, -1)
        assert float((judge(noise).argmax(1) == 10).double().mean()) >= 0.95

    def test_its_features_are_named_and_have_maps(self):
        s = parse("digits-ddpm")
        maps = s.gallery(s.request).features["digits-judge"](torch.rand(2, 3, 8, 8, generator=rng()))
        assert maps[-1].shape == (2, 64, 2, 2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def test_originals_learn_and_oracles_never_saw_the_class(store):
    pool = Pool(parse(f"digits-ddpm/class=3,{QUICK}"), store, CPU)
    trial = pool.trial(Seeds(), oracles=2)
    seen = [s.module.class_embedding.weight.detach()[3] for s in (trial.original, *trial.oracles)]
    born = [pool.scenario.subject(rng(k)).module.class_embedding.weight.detach()[3] for k in (0, 1000, 2000)]
    still = [torch.allclose(a, b, rtol=1e-5, atol=0) for a, b in zip(seen, born, strict=True)]
    assert still == [False, True, True], "but for weight decay"
    assert not torch.equal(seen[1], seen[2]), "two oracles, so that there are noise floors"
    assert trial.facts["training"]["recipe"] == "adamw"


def test_salun_runs_to_a_report_with_drawings_of_all_three(store):
    report = api.run(
        "salun", f"digits-ddpm/class=3,{QUICK}", store=store, device="cpu", metrics=["run-time"], epochs=1
    )
    grid = report.figures["drawings"]
    assert (grid["axis"], grid["concept"]) == ("digit", "3")
    assert list(grid["images"]) == ["original", "unlearned", "oracle"]
    assert grid["asked"][0] == "3" and sorted(grid["asked"]) == list("0123456789")
    assert report.costs.read.keys() == {"forget", "retain"}
