"""GS-LoRA: its penalty, its bound, what training leaves alone, and adapters that plain PEFT loads."""

import copy
import math

import pytest
import torch
from torch import nn

from unlearn.data import Batch, Resident, Split
from unlearn.errors import Mismatch
from unlearn.methods.gs_lora import GSLoRA
from unlearn.methods.gs_lora_pp import GSLoRAPlusPlus
from unlearn.networks import VisionTransformer, seeded
from unlearn.ops.bounded_lora import Prototypes, bounded, group_norm, part
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


def test_the_first_step_is_adams_on_the_loss_that_the_docstring_has():
    """B is zero at first, so that A has the gradient of the penalty alone; Adam's first step is lr · sign, after decay."""
    s, run, size = subject(), Run(), 48
    kept = copy.deepcopy(s)
    how = GSLoRA(
        **{**SMALL, "batch_size": size, "lr": 1e-3, "lr_end": 1e-3},
        beta=0.3,
        alpha=0.1,
        alpha_from=0,
        bound=50.0,
    )
    done, d = how.unlearn(s, split(), run), split()
    maps = beside(kept.module, [kept.module.blocks[0].fc1], 2, torch.Generator().manual_seed(0))
    up = torch.zeros(32, 2, requires_grad=True)
    fc1 = kept.module.blocks[0].fc1
    hook = fc1.register_forward_hook(lambda _m, x, out: out + x[0] @ maps["blocks/0/fc1"].down.T @ up.T)
    f, r = (next(iter(h.batches(size))) for h in (d.forget, d.retain))
    loss = kept.loss(r).mean() + 0.3 * (50 - kept.loss(f).mean())
    (g,) = torch.autograd.grad(loss, up)
    hook.remove()
    a = maps["blocks/0/fc1"].down.detach()
    step_a = a * (1 - 1e-3 * 0.05) - 1e-3 * a.sign()
    wanted = fc1.weight + (-1e-3 * g.sign()) @ step_a
    torch.testing.assert_close(done.module.blocks[0].fc1.weight, wanted.detach(), rtol=1e-4, atol=1e-6)


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
