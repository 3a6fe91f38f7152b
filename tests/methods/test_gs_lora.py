"""GS-LoRA and GS-LoRA++: penalty, bounds, every step beside a plain reference, and adapters that plain PEFT loads."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from unlearn.data import Batch, Resident, Split, paced
from unlearn.errors import Mismatch
from unlearn.methods.gs_lora import GSLoRA
from unlearn.methods.gs_lora_pp import UNFELT, GSLoRAPlusPlus
from unlearn.networks import VisionTransformer, resnet8, seeded
from unlearn.ops.bounded_lora import Prototypes, Sample, Settings, bounded, few, group_norm, part
from unlearn.ops.low_rank import applied, beside, fold
from unlearn.ops.steps import accuracy
from unlearn.patch import changed, changed_share, plain
from unlearn.runtime import Run
from unlearn.sources import Arrays
from unlearn.subjects.classifier import Classifier
from unlearn.testing.tiny import blobs

SMALL = {"epochs": 1, "rank": 2, "lora_alpha": 2.0, "batch_size": 8}


def network():
    return VisionTransformer(1, 4, side=4, width=8, depth=2)


def subject():
    return Classifier(seeded(network, torch.Generator().manual_seed(1)), 4, build=network)


def split():
    """Twelve examples to forget, of class 0, and thirty-six of the others."""
    source = blobs((1, 4, 4), (12,) * 4, torch.Generator().manual_seed(0))
    whole = Resident(source)
    sets = {"forget": whole.take(torch.arange(12)), "retain": whole.take(torch.arange(12, 48))}
    return Split(**sets, validation=whole, surrogate=whole, statistics=None)


def pixels():
    return Batch(
        torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(3)),
        torch.arange(5) % 4,
        torch.arange(5),
    )


def test_the_group_penalty_and_its_gradient_by_hand():
    """√(1 + 4 + 4 + 16) + √(9 + 16) = 10, with the gradient p / ‖block‖, and 0 for a block of zeros."""
    a = [
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[2.0], [4.0]]),
        torch.tensor([[3.0]]),
        torch.tensor([[4.0]]),
    ]
    a = [nn.Parameter(t.double()) for t in a]
    still = nn.Parameter(torch.zeros(3).double())
    total = group_norm([a[:2], a[2:], [still]])
    total.backward()
    assert total.item() == pytest.approx(5 + 5, rel=1e-12)
    assert a[0].grad.tolist() == [[0.2, 0.4]] and a[3].grad.item() == pytest.approx(0.8)
    assert still.grad.tolist() == [0.0] * 3


def test_the_forget_loss_has_exactly_no_gradient_beyond_its_bound():
    z = torch.tensor([[-9.0, 3.0]], dtype=torch.float64, requires_grad=True)
    loss = nn.functional.cross_entropy(z, torch.tensor([0]))
    assert loss > 5
    bounded(5.0, loss).backward()
    assert z.grad.tolist() == [[0.0, 0.0]]
    short = torch.tensor(1.5, requires_grad=True)
    bounded(5.0, short).backward()
    assert short.grad.item() == -1.0


def test_maps_that_are_new_change_nothing_and_folding_them_in_changes_no_output():
    s = subject()
    s.module.double().eval()
    x = pixels().x.double()
    with torch.no_grad():
        before = s.module(x)
        maps = beside(s.module, [s.module.blocks[0].fc1, s.module.blocks[1].fc2], 3, torch.Generator())
        with applied(s.module, maps, 0.5):
            assert torch.equal(s.module(x), before)
            for low in maps.values():
                low.up.normal_(generator=torch.Generator().manual_seed(2))
            beside_them = s.module(x)
        assert not torch.allclose(beside_them, before)
        fold(s.module, maps, 0.5)
        torch.testing.assert_close(s.module(x), beside_them, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", [GSLoRA, GSLoRAPlusPlus])
def test_only_feed_forward_weights_move_by_a_low_rank(method):
    s, run = subject(), Run()
    before = copy.deepcopy(s.module.state_dict())
    done = method(**SMALL, beta=1.0).unlearn(s, split(), run)
    moved = changed(before, done.module.state_dict())
    assert set(moved) == {f"blocks.{k}.fc{j}.weight" for k in range(2) for j in (1, 2)}
    for name, new in moved.items():
        values = torch.linalg.svdvals((new - before[name]).double())
        assert values[1] > 1e-5 and values[2] < 1e-6, "rank two, and rounding"
    norms = [float(torch.stack([(moved[f"blocks.{k}.fc{j}.weight"] - before[f"blocks.{k}.fc{j}.weight"]).square().sum()
                                for j in (1, 2)]).sum().sqrt()) for k in range(2)]  # fmt: skip
    assert run.log["block"] == pytest.approx(norms, rel=1e-4)
    assert len(run.log["forget"]) == math.ceil(36 / 8)


class Reference:
    """Both methods in double precision: torch's AdamW, a cosine, and the loss as the docstrings have it.

    Attributes:
        gone: Forget losses, one of each step.
        lasso: The sum of the norms of the blocks, likewise.
        pushed: KL_f, likewise.
    """

    def __init__(self, how, data):
        self.how, self.data, self.rng = how, data, Run().rng
        self.module = double().module.train()
        self.layers = [f"blocks.{k}.fc{j}" for k in range(2) for j in (1, 2)]
        self.maps = {n: self.new(self.module.get_submodule(n).weight) for n in self.layers}
        self.gone, self.lasso, self.pushed = [], [], []

    def new(self, weight):
        """A (r, in) uniform up to one over the root of its fan-in, drawn in single precision, and B (out, r) of zeros."""
        draw = torch.rand(self.how.rank, weight.shape[1], generator=self.rng)
        a = (weight.shape[1] ** -0.5 * (2 * draw - 1)).double().requires_grad_()
        return a, weight.new_zeros(len(weight), self.how.rank).detach().requires_grad_()

    def weights(self):
        scale = self.how.lora_alpha / self.how.rank
        return {
            f"{n}.weight": self.module.get_submodule(n).weight.detach() + scale * b @ a
            for n, (a, b) in self.maps.items()
        }

    def seen(self, batch, weights):
        """Features, which are what enters the head, and logits."""
        entering = []
        hook = self.module.head.register_forward_pre_hook(lambda _m, x: entering.append(x[0]))
        z = torch.func.functional_call(self.module, weights, (batch.x,))
        hook.remove()
        return entering[0], z

    def means(self, handle):
        """The mean feature of each class, before unlearning."""
        with torch.no_grad():
            (batch,) = handle.batches(48)
            v, _ = self.seen(batch, {})
        return {c: v[batch.y == c].mean(0) for c in set(batch.y.tolist())}

    def far(self, means, v, y):
        mu = torch.stack([means[c] for c in y.tolist()])
        return kl_div(v.log_softmax(1), mu.softmax(1), reduction="batchmean")

    def train(self, w_f=0.0, bnd_p=0.0, w_r=0.0):
        how, flat = self.how, [p for pair in self.maps.values() for p in pair]
        opt = torch.optim.AdamW(flat, how.lr, weight_decay=how.weight_decay, foreach=False)
        of_f, of_r = self.means(self.data.forget), self.means(self.data.retain)
        total, k = how.epochs * math.ceil(len(self.data.retain) / how.batch_size), 0
        for epoch in range(how.epochs):
            for r, f in paced(self.data.retain, self.data.forget, how.batch_size, self.rng):
                weights = self.weights()
                (v_f, z_f), (v_r, z_r) = self.seen(f, weights), self.seen(r, weights)
                gone, near = cross_entropy(z_f, f.y), self.far(of_f, v_f, f.y)
                lasso = sum(torch.cat([p.flatten() for n in self.layers if n.startswith(block) for p in self.maps[n]])
                            .square().sum().sqrt() for block in ("blocks.0", "blocks.1"))  # fmt: skip
                loss = cross_entropy(z_r, r.y) + how.beta * max(how.bound - gone, 0 * gone)
                loss = loss + (how.alpha * lasso if epoch >= how.alpha_from else 0)
                loss = loss + w_f * max(bnd_p - near, 0 * near) + w_r * self.far(of_r, v_r, r.y)
                opt.param_groups[0]["lr"] = (
                    how.lr_end + (how.lr - how.lr_end) * (1 + math.cos(math.pi * k / total)) / 2
                )
                opt.zero_grad()
                loss.backward()
                opt.step()
                k += 1
                for log, value in ((self.gone, gone), (self.lasso, lasso), (self.pushed, near)):
                    log.append(value.item())
        return self


def double():
    s = subject()
    s.module.double()
    return s


def doubled():
    """As `split`, in double precision."""
    d = split()
    held = {n: Resident(getattr(d, n).source, lambda x, _rng: x.double(), getattr(d, n).rows)
            for n in ("forget", "retain", "validation", "surrogate")}  # fmt: skip
    return Split(**held, statistics=None)


SLOWLY = {"epochs": 3, "rank": 2, "lora_alpha": 5.0, "batch_size": 20, "lr": 0.02, "lr_end": 5e-3, "beta": 0.3,
          "alpha": 0.1, "alpha_from": 1, "weight_decay": 0.2}  # fmt: skip
"""a / r is 5 / 2, the penalty comes in the second of three epochs of two steps, and the step size falls to a quarter."""


def agree(done, run, wanted):
    state = done.module.state_dict()
    for name, weight in wanted.weights().items():
        torch.testing.assert_close(state[name], weight.detach(), rtol=0, atol=1e-9)
    assert run.log["forget"] == pytest.approx(wanted.gone, rel=1e-9)
    assert run.log["lasso"] == pytest.approx(wanted.lasso, rel=1e-9)


@pytest.mark.parametrize("bound", [50.0, 1.6])
def test_every_step_is_adamws_on_the_loss_that_the_docstring_has(bound):
    """With a bound that is never reached, and with one that is passed on the way."""
    run, how = Run(), GSLoRA(**SLOWLY, bound=bound)
    done = how.unlearn(double(), doubled(), run)
    wanted = Reference(how, doubled()).train()
    agree(done, run, wanted)
    assert bound == 50 or min(wanted.gone) < bound < max(wanted.gone)


@pytest.mark.parametrize(
    ("bound", "w_f", "bnd_p", "w_r"),
    [(50.0, 0.7, 2.0, 0.0), (50.0, 0.0, 2.0, 40.0), (1.6, 300.0, 0.012, 30.0)],
)
def test_every_step_with_prototypes_is_adamws_on_their_loss_as_well(bound, w_f, bnd_p, w_r):
    """With each term of prototypes alone, and with both beside bounds that are passed on the way."""
    run, how = (
        Run(),
        GSLoRAPlusPlus(**SLOWLY, bound=bound, forget_push=w_f, push_bound=bnd_p, retain_pull=w_r),
    )
    done = how.unlearn(double(), doubled(), run)
    wanted = Reference(how, doubled()).train(w_f, bnd_p, w_r)
    agree(done, run, wanted)
    assert not run.remarks
    assert bnd_p == 2 or min(wanted.pushed) < bnd_p < max(wanted.pushed)


def test_where_no_map_lies_before_the_features_prototypes_change_nothing():
    """The only linear layer of a residual network is its last, so that both methods make the same weights."""

    def made(method, **more):
        net = seeded(resnet8, torch.Generator().manual_seed(1))
        run = Run()
        done = method(**SLOWLY, **more).unlearn(Classifier(net, 10), Split(**pictures, statistics=None), run)
        return done.module.state_dict(), run.remarks

    whole = Resident(blobs((1, 8, 8), (12,) * 4, torch.Generator().manual_seed(0)))
    pictures = {"forget": whole.take(torch.arange(12)), "retain": whole.take(torch.arange(12, 48)),
                "validation": whole, "surrogate": whole}  # fmt: skip
    (plain_one, silent), (pushed, said) = (
        made(GSLoRA), made(GSLoRAPlusPlus, forget_push=5.0, push_bound=99.0, retain_pull=3.0),
    )  # fmt: skip
    untouched = seeded(resnet8, torch.Generator().manual_seed(1)).state_dict()
    assert changed(untouched, plain_one).keys() == {"linear.weight"}
    assert all(torch.equal(plain_one[n], pushed[n]) for n in plain_one)
    assert not silent and said == [UNFELT]


TABLE = {
    "paper": (0.2, 105.0, 1e-4, 0, 0.01, 18.0),
    "single": (0.05, 110.0, 0.01, 20, 0.005, 18.0),
    "two-shot": (0.15, 110.0, 0.01, 20, 0.5, 18.0),
    "few-shot": (0.3, 105.0, 1e-4, 0, 0.015, 50.0),
    "imagenet": (0.2, 105.0, 1e-4, 0, 0.05, 18.0),
    "missing": (0.14, 105.0, 0.015, 30, 3e-4, 18.0),
}
"""β, BND, α and the epoch from which it counts, w_f, BND_p; of several tasks those of the first."""


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_those_of_the_authors_scripts(name):
    drawn = {"two-shot": (1.0, 2, 4), "few-shot": (1.0, 4, 48), "imagenet": (0.05, 0, 48)}.get(
        name, (0.1, 0, 48)
    )
    for m in (cls.preset(name) for cls in (GSLoRA, GSLoRAPlusPlus) if name in cls.presets):
        assert (m.beta, m.bound, m.alpha, m.alpha_from) == TABLE[name][:4]
        assert (m.share, m.shots, m.batch_size) == drawn
        assert (m.epochs, m.rank, m.lora_alpha, m.lr, m.lr_end, m.weight_decay) == (
            100,
            8,
            1.0,
            1e-2,
            1e-5,
            0.05,
        )
    assert (m.forget_push, m.push_bound, m.retain_pull) == (*TABLE[name][4:], 0.0)
    assert set(TABLE) == set(GSLoRAPlusPlus.presets) and set(GSLoRA.presets) == {"paper", "single"}


def test_what_is_forgotten_falls_and_what_is_kept_stays():
    s, d = subject(), split()
    opt = torch.optim.Adam(s.module.parameters(), 1e-2)
    for _ in range(60):
        for b in d.validation.batches(48):
            opt.zero_grad()
            s.loss(b).mean().backward()
            opt.step()
    assert accuracy(s, d.validation) == 1
    done = GSLoRA(**{**SMALL, "epochs": 12}, beta=1.0, lr=1e-2).unlearn(s, d, Run())
    assert accuracy(done, d.forget) == 0 and accuracy(done, d.retain) > 0.9


def test_prototypes_are_class_means_and_distances_sums_over_entries():
    v = torch.tensor([[0.0, 2.0], [2.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
    found = Prototypes(v, torch.tensor([4, 4, 9]))
    assert found.means.tolist() == [[1.0, 1.0], [5.0, 5.0]]
    near = found.distance(
        torch.tensor([[7.0, 7.0], [math.log(3), 0.0]], dtype=torch.float64), torch.tensor([9, 4])
    )
    by_hand = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(
        0.5 / 0.25
    )  # of a half and a half from three quarters
    assert near.item() == pytest.approx(by_hand / 2, rel=1e-12)


def test_a_share_is_drawn_once_and_is_never_nothing():
    whole = Resident(Arrays(torch.arange(20.0)[:, None], torch.arange(20)))
    some = part(whole, 0.25, 3, torch.Generator().manual_seed(0))
    seen = [
        sorted(y for b in some.batches(2, torch.Generator().manual_seed(k)) for y in b.y.tolist())
        for k in (1, 2)
    ]
    assert len(some) == 5 and seen[0] == seen[1] and len(set(seen[0])) == 5
    assert part(whole, 1.0, 3, torch.Generator()) is whole
    assert len(part(whole, 0.01, 3, torch.Generator())) == 1


def test_shots_are_so_many_of_each_class_drawn_once():
    """Of class 0 there are 2, of class 1 nine and of class 2 one."""
    y = torch.tensor([1, 0, 1, 1, 2, 1, 1, 0, 1, 1, 1, 1])
    whole = Resident(Arrays(torch.arange(12.0)[:, None], y))
    found = [few(whole, 3, 5, torch.Generator().manual_seed(k)) for k in range(4)]
    for some in found:
        assert sorted(some.y.tolist()) == [0, 0, 1, 1, 1, 2]
        (b,) = some.batches(9)
        assert len(set(b.x[:, 0].tolist())) == 6 and torch.equal(y[b.x[:, 0].long()], b.y)
    assert len({frozenset(next(some.batches(9)).x[:, 0].tolist()) for some in found}) > 1, "they are drawn"
    assert few(whole, 0, 5, torch.Generator()) is whole


def test_shots_and_share_are_what_training_reads():
    run, how = Run(), GSLoRA(**{**SMALL, "batch_size": 4}, shots=2)
    how.unlearn(subject(), split(), run)
    assert len(run.log["forget"]) == 2, "six of three classes, in two batches of four"
    of = Sample(split(), Settings.of(GSLoRA(share=0.5, shots=4)), Run().rng)
    assert sorted(of.forget.y.tolist()) == [0] * 4 and len(of.retain) <= 12


def test_a_network_without_linear_layers_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 4, 4), nn.Flatten())
    with pytest.raises(Mismatch, match="Sequential has no linear layer"):
        GSLoRA(**SMALL).unlearn(Classifier(net, 4), split(), Run())


def test_an_adapter_leaves_every_weight_and_adds_what_merging_would():
    merged = GSLoRA(**SMALL).unlearn(subject(), split(), Run())
    s = subject()
    done = GSLoRA(**SMALL, keep="adapter").unlearn(s.clone(), split(), Run())
    state = done.module.state_dict()
    added = changed(s.module.state_dict(), state)
    assert all("lora_" in n for n in added) and {plain(n) for n in state.keys() - added.keys()} == set(
        s.module.state_dict()
    )
    assert 0 < changed_share(s.module, done.module) < 0.5
    for module in (merged.module, done.module):
        module.eval()
    b = pixels()
    with torch.no_grad():
        torch.testing.assert_close(done.outputs(b), merged.outputs(b), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(done.features(b), merged.features(b), rtol=1e-4, atol=1e-6)
        again = GSLoRA(**SMALL, keep="adapter").restore(s.clone(), added)
        assert torch.equal(again.outputs(b), done.outputs(b))


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # between peft and transformers
def test_plain_peft_loads_the_folder_with_equal_outputs(tmp_path):
    """Of two requests one after another, whose factors stand side by side, on a transformers model."""
    from peft import PeftModel
    from transformers import ViTConfig, ViTForImageClassification

    from unlearn.ops.weights import save_like
    from unlearn.subjects.classifier import logits_of

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(
        image_size=4, patch_size=2, num_channels=1, num_labels=4, initializer_range=0.5, **sizes
    )
    base = ViTForImageClassification(config).eval()
    s = Classifier(copy.deepcopy(base), 4, read=logits_of)
    how = GSLoRA(**SMALL, keep="adapter")
    once = how.unlearn(s, split(), Run(0))
    first = copy.deepcopy(once.module).eval()
    twice = how.unlearn(once.clone(), split(), Run(1))
    twice.module.eval()
    save_like(twice, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    assert loaded.peft_config["default"].r == 4
    x = pixels().x
    with torch.no_grad():
        found = loaded(x).logits
        torch.testing.assert_close(found, twice.module(x).logits, rtol=1e-6, atol=1e-7)
        assert not torch.allclose(found, first(x).logits, atol=1e-4)


def test_an_adapter_goes_through_the_bench_and_comes_back_from_the_store(tmp_path):
    from unlearn import api
    from unlearn.ops.weights import save_like
    from unlearn.scenario import Seeds, parse

    how = GSLoRA(**SMALL, keep="adapter", share=0.2)
    scenario = parse("digits/class=3+5,network=vit,epochs=1")
    bench = api.bench(tmp_path / "store", "cpu")
    first, again = (
        api.sweep(bench, [how], scenario, [Seeds()], [api.named(["accuracy"])[0], api.named(["drop"])[0]])
        for _ in range(2)
    )
    (before, one), (report, done) = first
    assert report.costs.changed < 0.1 and any("acts beside it" in n for n in before.notes)
    assert report.score("drop/earlier") is not None and report.score("accuracy/test_now") is not None
    (_, kept), (_, restored) = again
    x = torch.randn(2, 1, 8, 8)
    for made, known in ((one, kept), (done, restored)):
        with torch.no_grad():
            assert torch.equal(made.module.eval()(x), known.module.eval()(x))
    save_like(done, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_a_report_says_that_prototypes_did_nothing_made_now_or_from_the_store(tmp_path):
    from unlearn import api
    from unlearn.scenario import Seeds, parse

    bench = api.bench(tmp_path / "store", "cpu")
    how, scenario = GSLoRAPlusPlus(epochs=1, share=0.1), parse("digits/class=3,epochs=1")
    for _ in range(2):
        ((report, _),) = api.sweep(bench, [how], scenario, [Seeds()], [api.named(["drop"])[0]])
        assert report.notes.count(UNFELT) == 1
