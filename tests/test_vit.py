"""The small vision transformer, against torch's own layers, and how it is trained."""

import torch
from torch import nn
from torch.nn.functional import gelu

from unlearn.networks import Attention, Transformer, vit
from unlearn.ops.adamw import AdamW
from unlearn.ops.recipe import SGD
from unlearn.scenario import parse


def tokens():
    return torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        for into, of in ((theirs.in_proj_weight, ours.qkv.weight), (theirs.in_proj_bias, ours.qkv.bias),
                         (theirs.out_proj.weight, ours.out.weight), (theirs.out_proj.bias, ours.out.bias)):  # fmt: skip
            into.copy_(of)
        x = tokens()
        torch.testing.assert_close(ours(x), theirs(x, x, x)[0], rtol=1e-12, atol=1e-12)


def test_a_block_adds_attention_and_then_its_feed_forward_layers():
    torch.manual_seed(0)
    block, x = Transformer(8, 2).double(), tokens()
    with torch.no_grad():
        h = x + block.attention(block.norm1(x))
        wanted = h + block.fc2(gelu(block.fc1(block.norm2(h))))
        assert torch.equal(block(x), wanted)
    assert block.fc1.weight.shape == (32, 8)


def test_patches_lie_in_rows_and_their_place_counts():
    """Without positions a transformer that means over its tokens could not tell an image from one with patches swapped."""
    torch.manual_seed(0)
    net = vit().eval()
    x = torch.zeros(1, 1, 8, 8)
    x[..., 2:4, 4:6] = 1
    seen = []
    net.patches.register_forward_hook(lambda _m, _x, out: seen.append(out.flatten(2)))
    with torch.no_grad():
        net(x)
        moved = torch.roll(x, (4, -2), (2, 3))
        assert not torch.allclose(net(x), net(moved), atol=1e-5)
        far = (seen[0] - net.patches(torch.zeros(1, 1, 8, 8)).flatten(2)).norm(dim=1)[0]
    assert far.argmax() == 1 * 4 + 2  # second row, third column of four by four


def test_a_transformer_is_trained_with_adam_and_a_residual_network_as_before():
    recipes = [
        parse(f"digits/class=3{more}").subject(torch.Generator()).recipe for more in ("", ",network=vit")
    ]
    assert [type(r) for r in recipes] == [SGD, AdamW] and recipes[1].epochs == 40
    assert parse("digits/class=3,network=vit,epochs=2").subject(torch.Generator()).recipe.epochs == 2
