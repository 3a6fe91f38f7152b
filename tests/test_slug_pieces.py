"""Importance, alignment, front and search of single-layer unlearning, against values worked by hand."""

import copy
import math

import pytest
import torch
from torch import nn

from unlearn.errors import Mismatch
from unlearn.ops.slug import (
    Layer,
    mean_gradients,
    movable,
    operate,
    pareto,
    per_example,
    search,
    step,
    unmoved,
    weights,
)
from unlearn.runtime import Run
from unlearn.testing.tiny import specimen


def layer(importance, alignment, name="", size=2.0):
    """A layer of norm `size` with this ‖g_f‖ / ‖θ‖ and this |cos(g_f, g_r)|."""
    theta = nn.Parameter(torch.tensor([[size, 0.0]], dtype=torch.float64))
    forget = torch.tensor([[0.0, importance * size]], dtype=torch.float64)
    retain = torch.tensor([[math.sqrt(1 - alignment**2), -alignment]], dtype=torch.float64)
    return Layer(name, theta, forget, retain)


def test_importance_and_alignment_by_hand():
    theta = nn.Parameter(torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64))  # norm 5
    f = torch.tensor([[1.0, 2.0], [2.0, 0.0]], dtype=torch.float64)  # norm 3
    r = torch.tensor([[-2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)  # norm 2, product with f -2
    m = Layer("w", theta, f, r)
    assert m.importance == pytest.approx(3 / 5, rel=1e-12)
    assert m.alignment == pytest.approx(2 / (3 * 2), rel=1e-12)


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1.0, 0.5), (2.0, 0.4)], "b"),  # b is better in both
        ([(1.0, 0.1), (2.0, 0.4)], "ab"),
        ([(2.0, 0.5), (2.0, 0.4)], "ab"),  # a tie in one does not dominate
        ([(2.0, 0.4), (1.0, 0.4)], "ab"),
        ([(1.0, 0.4), (1.0, 0.4)], "ab"),
        ([(3.0, 0.9), (2.0, 0.5), (1.0, 0.1), (1.5, 0.6), (0.5, 0.2)], "abc"),
    ],
)
def test_a_layer_is_off_the_front_only_where_another_is_strictly_better_in_both(points, front):
    layers = [layer(i, a, name) for name, (i, a) in zip("abcde", points, strict=False)]
    assert "".join(m.name for m in pareto(layers)) == front


def judge(m, least, seen=None):
    """Forgets from the step of size `least` on; the harm is the step."""
    start = m.weight.detach().clone()

    def look():
        size = float((m.weight.detach() - start).norm() / m.forget.norm())
        if seen is not None:
            seen.append(m.weight.detach().clone())
        return (0.0 if size >= least else 1.0), size

    return look


@pytest.mark.parametrize(
    ("least", "wanted"),
    [
        (3.0, [0.2, 0.4, 0.8, 1.6, 3.2, 2.4, 2.8, 3.0, 2.9, 2.95]),  # doubles up to 3.2, then bisects
        (
            0.1,
            [0.2, 0.1, 0.05, 0.075, 0.0875, 0.09375],
        ),  # forgets at once: bisects down to where it no longer does
        (1e9, [0.2, 0.4, 0.8, 1.6]),
    ],
)
def test_the_sequence_of_steps(least, wanted):
    """λ₀ is a tenth of ‖θ‖ / ‖g_f‖ = 2; a step that forgets is an upper end, one that does not a lower end."""
    m = layer(0.5, 0.0)
    tried = search(m, 0.1, len(wanted), 0.5, judge(m, least - 1e-9))
    assert [t.size for t in tried] == pytest.approx(wanted, rel=1e-9)
    assert [t.left <= 0.5 for t in tried] == [s >= least - 1e-6 for s in wanted]
    assert [t.harm for t in tried] == pytest.approx(wanted, rel=1e-9)


def test_every_step_starts_from_the_original_which_keeps_its_bits():
    m, seen = layer(0.7, 0.3), []
    before = m.weight.detach().clone()
    tried = search(m, 0.1, 6, 0.5, judge(m, 1.0, seen))
    for weight, t in zip(seen, tried, strict=True):
        assert torch.equal(weight, before + t.size * m.forget)
    assert torch.equal(m.weight, before)
    with pytest.raises(RuntimeError, match="stop"):
        search(m, 0.1, 6, 0.5, stop)
    assert torch.equal(m.weight, before)
    step(m, before, 0.25)
    assert torch.equal(m.weight, before + 0.25 * m.forget)


HOW = (0.1, 10, 0.5)  # first, tries, enough


def test_of_all_steps_that_forget_the_one_with_least_harm_is_taken_and_of_these_the_shortest():
    """On a the harm is the step, on b always 0.6: its steps 1.6, 1.2, 1.0 forget, and the shortest is taken for good."""
    a, b, run = layer(0.5, 0.1, "a"), layer(0.5, 0.2, "b"), Run()
    start = b.weight.detach().clone()

    def look():
        far = [float((m.weight.detach() - s).norm()) for m, s in ((a, start), (b, start))]
        return (0.0 if max(far) >= 1.0 - 1e-9 else 1.0), 0.6 if far[1] else 0.9

    operate([a, b], *HOW, look, run)
    assert torch.equal(a.weight, start)
    assert float((b.weight.detach() - start).norm()) == pytest.approx(1.0)
    assert len(run.log["size"]) == 21 and run.log["left"][-1] == 0.0 and run.log["harm"][-1] == 0.6
    assert run.log["size"][-1] == pytest.approx(1.0)


def test_where_nothing_forgets_the_step_that_leaves_least_is_taken():
    m, run = layer(0.5, 0.1), Run()
    start = m.weight.detach().clone()
    operate([m], *HOW, lambda: (1 / (1 + float((m.weight.detach() - start).norm())) + 0.5, 0.0), run)
    assert run.log["size"][-1] == max(run.log["size"]) == pytest.approx(0.2 * 2**9)


def test_layers_without_a_gradient_or_a_weight_are_left_out():
    still, empty, live = layer(0.0, 0.1, "still"), layer(1.0, 0.1, "empty"), layer(1.0, 0.1, "live")
    with torch.no_grad():
        empty.weight.zero_()
    assert [m.name for m in movable([still, empty, live])] == ["live"]
    with pytest.raises(Mismatch, match="has no gradient at any layer that may be moved"):
        operate(movable([still]), *HOW, stop, Run())


def test_a_smaller_last_batch_weighs_by_its_examples():
    w = nn.Parameter(torch.ones(1))
    losses = ((w * torch.tensor(part)) for part in ([1.0, 2.0], [6.0]))
    assert mean_gradients(per_example(losses, 3, 2), [w])[0].item() == pytest.approx(3.0)


def stop():
    raise RuntimeError("stop")


def test_gradients_are_meaned_over_batches_and_nothing_is_left_behind():
    """The authors' scripts for Hugging Face models never clear them: those of forgetting leak into those of retaining."""
    w, idle = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.zeros(3))
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    made = mean_gradients(((w * row).sum() for row in x), [w, idle])
    assert made[0].tolist() == [2.0, 2.0] and made[1].tolist() == [0.0] * 3
    assert mean_gradients(((w * row).sum() for row in x), [w])[0].tolist() == [2.0, 2.0]
    assert w.grad is None


LAYERS = {f"encoder.layers.0.self_attn.{k}_proj.weight" for k in ("k", "q", "v", "out")} | {
    f"encoder.layers.0.mlp.{n}.weight" for n in ("fc1", "fc2")
}
NORMS = {f"encoder.layers.0.layer_norm{k}.weight" for k in (1, 2)}


def test_of_a_text_encoder_that_draws_norms_are_left_out():
    assert set(weights(specimen("unet").subject.text, "norm")) == LAYERS


def test_of_an_encoder_norms_and_the_kernel_over_patches_may_be_moved():
    """All but what is named bias, logit_scale, position or embedding; the kernel is `conv1` in open_clip."""
    text = {f"text_model.{n}" for n in {*LAYERS, *NORMS, "final_layer_norm.weight"}}
    image = {f"vision_model.{n}" for n in {*LAYERS, *NORMS, "pre_layrnorm.weight", "post_layernorm.weight"}}
    both = {
        "text_projection.weight",
        "visual_projection.weight",
        "vision_model.embeddings.patch_embedding.weight",
    }
    assert set(weights(specimen("clip").subject.module)) == text | image | both


def test_the_names_of_open_clip_are_told_apart_alike():
    kept = (
        "visual.conv1.weight",
        "visual.ln_pre.weight",
        "visual.proj",
        "transformer.resblocks.0.attn.in_proj_weight",
    )
    left = ("visual.class_embedding", "visual.positional_embedding", "positional_embedding", "token_embedding.weight",
            "logit_scale", "transformer.resblocks.0.attn.in_proj_bias", "ln_final.bias")  # fmt: skip

    class Named(nn.Module):
        def named_parameters(self, *_, **__):
            return ((n, nn.Parameter(torch.ones(2))) for n in (*kept, *left))

    assert tuple(weights(Named())) == kept


@pytest.mark.parametrize("train", [True, False])
def test_what_gradients_do_to_running_statistics_is_taken_back(train):
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).train(not train)
    before = copy.deepcopy(net.state_dict())
    with unmoved(net, train=train):
        assert all(m.training == train for m in net.modules())
        net(torch.tensor([[5.0, 1.0], [7.0, 2.0]]))
        assert torch.equal(net[0].running_mean, before["0.running_mean"]) != train
    assert all(m.training != train for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
