"""Which linear layers of a transformer are its feed-forward ones, on the layouts that libraries have."""

import pytest
import torch
from torch import nn

from unlearn.errors import Mismatch, UnknownName
from unlearn.networks import resnet8, vit
from unlearn.ops.feed_forward import chosen, feed_forward


def names(blocks):
    return [list(b) for b in blocks]


def test_of_our_own_transformer():
    assert names(feed_forward(vit())) == [[f"blocks.{k}.fc1", f"blocks.{k}.fc2"] for k in range(3)]


def test_of_transformers_and_torch():
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 8, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    net = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **sizes))
    found = feed_forward(net)
    assert [[(m.in_features, m.out_features) for m in b.values()] for b in found] == [[(8, 24), (24, 8)]] * 2
    layer = nn.TransformerEncoderLayer(8, 2, 32)
    assert names(feed_forward(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))) == [
        [f"layers.{k}.linear1", f"layers.{k}.linear2"] for k in range(2)
    ]


class Gated(nn.Module):
    """A block whose attention is wider than its stream, and whose feed-forward layers are gated."""

    def __init__(self):
        super().__init__()
        self.q, self.o = nn.Linear(8, 16), nn.Linear(16, 8)
        self.gate, self.up, self.down = nn.Linear(8, 24), nn.Linear(8, 24), nn.Linear(24, 8)


def test_gates_count_and_attention_does_not():
    assert names(feed_forward(nn.ModuleList([Gated(), Gated()]))) == [
        [f"{k}.gate", f"{k}.up", f"{k}.down"] for k in range(2)
    ]


def test_a_squeeze_that_leads_down_and_up_again_is_no_feed_forward_layer():
    assert feed_forward(nn.Sequential(nn.Linear(16, 4), nn.Linear(4, 16))) == []


def test_a_network_that_is_no_transformer_has_every_linear_layer_as_a_block():
    assert names(chosen(resnet8())) == [["linear"]]
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    assert names(chosen(plain)) == [["0"], ["2"]]


def test_layers_by_name_are_blocks_by_their_number():
    found = chosen(vit(), "attention.out, blocks.1.fc1")
    assert names(found) == [
        ["blocks.0.attention.out"],
        ["blocks.1.attention.out", "blocks.1.fc1"],
        ["blocks.2.attention.out"],
    ]
    assert names(chosen(resnet8(), "linear")) == [["linear"]]


def test_what_is_not_there_is_refused_in_one_line():
    with pytest.raises(UnknownName, match=r"no linear layer called 'fc3'. There are: blocks.0.attention.qkv"):
        chosen(vit(), "fc3")
    with pytest.raises(UnknownName, match="no linear layer called 'c1'"):
        chosen(vit(), "c1")  # the end of a name counts only after a dot
    with pytest.raises(Mismatch, match=r"Conv2d has no linear layer .* such as salun or finetune"):
        chosen(nn.Conv2d(1, 1, 1))


def test_projections_that_attention_reads_past_are_left_out():
    """torch's attention hands the weights of its output on, so that a map beside that layer would never act."""
    net = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "head": nn.Linear(4, 2)})
    assert names(chosen(net)) == [["head"]]
    assert torch.is_tensor(net["attention"].out_proj.weight)
