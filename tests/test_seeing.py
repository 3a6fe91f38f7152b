"""An image classifier as a judge of drawings: its own preprocessing, its labels, and names it does not know."""

import json

import pytest
import torch
from torch.nn.functional import interpolate

from unlearn.errors import BadValue, BadWeights
from unlearn.gallery import seen
from unlearn.ops.pictures import Frame
from unlearn.ops.seeing import framed, load_judge

LABELS = ("cat", "Dog", "nothing", "Monet")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def saved(folder, labels=LABELS):
    """A tiny classifier with random weights, as transformers writes it."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        id2label=dict(enumerate(labels)), label2id={n: k for k, n in enumerate(labels)},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ViTForImageClassification(config).eval()
    net.save_pretrained(folder)
    settings = {"size": {"height": 8, "width": 8}, "do_normalize": True, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return net


@pytest.fixture
def images():
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_it_sees_what_the_classifier_sees_and_nothing_comes_last(tmp_path, images):
    net, judge = saved(tmp_path), load_judge(str(tmp_path), ["CAT", "dog"])
    assert judge.names == ("cat", "Dog", "Monet")
    assert (judge.place("monet"), judge.place("DOG")) == (2, 1)
    small = interpolate(images, (8, 8), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    with torch.no_grad():
        logits = net((small - mean) / std).logits
        torch.testing.assert_close(judge(images), logits[:, [0, 1, 3, 2]], atol=1e-5, rtol=1e-5)


def test_without_a_label_for_nothing_something_is_always_seen(tmp_path, images):
    saved(tmp_path, LABELS[:2])
    judge = load_judge(str(tmp_path), ["cat"])
    with torch.no_grad():
        assert judge(images).shape == (5, 3)
        assert (seen(judge(images)) < 2).all()
        assert (seen(judge(images * float("nan"))) == 2).all(), "what is not finite shows nothing"


def test_a_name_that_it_does_not_know_is_one_line(tmp_path):
    saved(tmp_path)
    with pytest.raises(
        BadValue, match="no label of the judge called 'horse'; there are 3: cat, dog, monet; give a"
    ):
        load_judge(str(tmp_path), ["cat", "horse"])
    with pytest.raises(BadWeights, match="no image classifier at"):
        load_judge(str(tmp_path / "nowhere"), [])


@pytest.mark.parametrize(
    ("frame", "shape"),
    [
        (Frame(), (3, 20, 10)),
        (Frame((8, 6)), (3, 8, 6)),
        (Frame((8, 8), 1), (1, 8, 8)),
        (Frame((8, 6), 3, 12), (3, 8, 6)),
    ],
)
def test_size_and_colours_are_those_that_it_wants(frame, shape):
    x = torch.linspace(0, 1, 20)[:, None].expand(1, 3, 20, 10)
    out = framed(x, frame)
    assert out.shape[1:] == shape and out.min() >= 0 and out.max() <= 1
    assert out[0, 0, :, 0].diff().min() > 0, "not turned"
    if frame.shortest:  # scaled to 24 x 12, and 8 rows cut out of the middle
        assert out[0, 0, [0, -1], 0].tolist() == pytest.approx([8.5 / 24, 15.5 / 24], abs=0.03)
