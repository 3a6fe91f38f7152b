import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from unlearn.errors import Mismatch
from unlearn.ops.low_rank import LowRank, applied, beside, check_fit

LAYERS = {
    "linear": lambda: nn.Linear(12, 20),
    "conv": lambda: nn.Conv2d(6, 9, 3, stride=2, padding=1, dilation=2),
    "point": lambda: nn.Conv2d(6, 9, 1, bias=False),
}
INPUTS = {"linear": (4, 5, 12), "conv": (4, 6, 9, 9), "point": (4, 6, 3, 3)}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def made(kind, rank):
    """A layer, a low-rank map beside it that is not zero, and an input, in float64."""
    layer = LAYERS[kind]().double()
    low = LowRank(layer, rank, rng())
    nn.init.normal_(low.up, generator=rng(1))
    return layer, low, torch.randn(INPUTS[kind], generator=rng(2), dtype=torch.float64)


def product(low):
    """U D as a weight of the layer: each output's kernel is a mixture of those of D."""
    return torch.einsum("or,r...->o...", low.up.flatten(1), low.down)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("kind", LAYERS)
def test_it_adds_what_the_product_of_its_factors_adds_to_the_weight(kind, rank):
    layer, low, x = made(kind, rank)
    net, maps = nn.ModuleDict({"a": nn.Sequential(layer)}), nn.ModuleDict({"a/0": low})
    bare = layer(x)
    for scale in (0.0, 1.0, -0.3):
        with applied(net, maps, scale):
            got = layer(x)
        merged = copy.deepcopy(layer)
        merged.weight.data += scale * product(low)
        assert torch.allclose(got, merged(x), rtol=0, atol=1e-12)
        assert torch.equal(got, bare) == (scale == 0)
    assert torch.equal(layer(x), bare) and not layer._forward_hooks


@pytest.mark.parametrize("kind", LAYERS)
def test_each_example_has_its_scale_and_a_larger_batch_repeats_them(kind):
    layer, low, x = made(kind, 2)
    net, maps = nn.ModuleDict({"a": layer}), nn.ModuleDict({"a": low})
    scale = torch.tensor([0.5, -2.0], dtype=torch.float64)
    with applied(net, maps, scale):
        got = layer(x)
    wanted = layer(x) + torch.stack([s * low(x)[i] for i, s in enumerate((0.5, -2.0, 0.5, -2.0))])
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12)


def test_several_sets_add_up_and_an_error_switches_them_off():
    layer, low, x = made("linear", 1)
    other = LowRank(layer, 2, rng(5))
    nn.init.normal_(other.up, generator=rng(6))
    net = nn.ModuleDict({"a": layer})
    one, two = nn.ModuleDict({"a": low}), nn.ModuleDict({"a": other})
    with applied(net, one, 0.5), applied(net, two, 2.0):
        assert torch.allclose(layer(x), layer.bias + x @ layer.weight.T + 0.5 * low(x) + 2 * other(x))
    with pytest.raises(RuntimeError, match="stop"), applied(net, one, 1.0):
        raise RuntimeError("stop")
    assert not layer._forward_hooks


@pytest.mark.parametrize("kind", LAYERS)
def test_a_new_one_is_zero_and_its_rows_are_uniform_as_in_a_new_layer(kind):
    """Uniform up to b has the variance b² / 3; kaiming_uniform_ with a = √5 is the same distribution."""
    layer = LAYERS[kind]()
    low = LowRank(layer, 400, rng())
    limit = layer.weight[0].numel() ** -0.5
    assert not low.up.any() and low.down.shape == (400, *layer.weight.shape[1:])
    assert low.down.abs().max() <= limit and low.down.abs().max() > 0.99 * limit
    assert float(low.down.detach().var()) == pytest.approx(limit**2 / 3, rel=0.06)
    theirs = nn.init.kaiming_uniform_(torch.empty_like(low.down), a=5**0.5, generator=rng(3))
    assert float(theirs.detach().abs().max()) == pytest.approx(limit, rel=0.01)
    assert torch.equal(low.down, LowRank(layer, 400, rng()).down)


def test_gradients_reach_both_factors():
    layer, low, x = made("conv", 1)
    with applied(nn.ModuleDict({"a": layer}), nn.ModuleDict({"a": low}), 1.0):
        layer(x).square().sum().backward()
    up, down = low.up.detach().requires_grad_(), low.down.detach().requires_grad_()
    weight = layer.weight + torch.einsum("or,r...->o...", up.flatten(1), down)
    conv2d(x, weight, layer.bias, stride=2, padding=1, dilation=2).square().sum().backward()
    assert torch.allclose(low.up.grad, up.grad) and torch.allclose(low.down.grad, down.grad)


def test_maps_are_named_after_their_layers_and_keep_to_their_type():
    net = nn.ModuleDict({"unet": nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Conv2d(1, 1, 1))}).half()
    maps = beside(net, [net["unet"][0], net["unet"][2]], 1, rng())
    assert list(maps) == ["unet/0", "unet/2"] and {p.dtype for p in maps.parameters()} == {torch.float16}
    assert not any(p.is_meta for p in maps.parameters())


def test_what_does_not_fit_is_refused_in_one_line():
    net = nn.ModuleDict({"a": nn.Linear(2, 3)})
    maps = beside(net, [net["a"]], 1, rng())
    check_fit(net, maps)
    for other, found in ((nn.Linear(2, 4), r"\(4, 2\)"), (nn.ReLU(), r"\(0,\)")):
        with pytest.raises(Mismatch, match=f"the adapter of a maps .* has shape {found}; move adapters"):
            check_fit(nn.ModuleDict({"a": other}), maps)
    with pytest.raises(Mismatch, match=r"no low-rank map goes beside Conv2d.*groups=2"):
        LowRank(nn.Conv2d(4, 4, 3, groups=2), 1, rng())
