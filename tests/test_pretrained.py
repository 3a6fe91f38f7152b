"""Image classifiers of transformers, in and out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from unlearn.errors import BadWeights, UnlearnError
from unlearn.ops.pretrained import image_input, load_classifier
from unlearn.ops.weights import save_like
from unlearn.patch import load_tensors, save_tensors, weights_hash
from unlearn.pool import Pool
from unlearn.request import parse as request
from unlearn.scenario import Seeds
from unlearn.scenarios.custom import Custom
from unlearn.sources import Pixels
from unlearn.store import Store
from unlearn.subject import mode
from unlearn.subjects.classifier import Classifier

CPU = torch.device("cpu")


def pool(scenario, tmp_path):
    return Pool(scenario, Store(tmp_path / "store"), CPU)


def message(scenario, tmp_path):
    """The one line with which a scenario is refused."""
    with pytest.raises(UnlearnError) as err:
        pool(scenario, tmp_path).trial(Seeds())
    assert "\n" not in str(err.value)
    return err.value


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    """No look at the hub, and the caches of `datasets` in a folder of this test."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def tiny(kind):
    from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    names = {"id2label": {0: "red", 1: "green", 2: "blue"}, "label2id": {"red": 0, "green": 1, "blue": 2}}
    if kind == "vit":
        config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                           image_size=16, patch_size=8, **names)  # fmt: skip
        return ViTForImageClassification(config).eval()
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **names)
    return ResNetForImageClassification(config).eval()


@pytest.fixture
def pictures(tmp_path):
    """An imagefolder of three colours, 20 images in each class of each split."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for c, name in enumerate(("blue", "green", "red")):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(20):
                pixels = rng.integers(0, 60, (20, 24, 3)).astype(np.uint8)
                pixels[:, :, 2 - c] += 180
                Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return tmp_path / "pictures"


PROCESSORS = {
    "vit": {"do_resize": True, "size": {"height": 16, "width": 16}, "resample": 2, "do_rescale": True,
            "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]},
    "resnet": {"do_resize": True, "size": {"shortest_edge": 18}, "crop_pct": 0.9, "resample": 3,
               "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_transformers_folder_goes_in_and_out(tmp_path, pictures, kind):
    model = tiny(kind)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[kind]))
    fields = {"model": str(tmp_path / "model"), "data": str(pictures)}
    trial = pool(Custom(request=request("class=red"), **fields), tmp_path).trial(Seeds())
    assert trial.classes == ("red", "green", "blue")
    assert len(trial.handles["forget"]) == 20
    batch = next(trial.handles["forget"].batches(4))
    side = 16 if kind == "vit" else 18
    assert batch.x.shape == (4, 3, side, side)
    assert batch.y.tolist() == [0, 0, 0, 0]
    assert batch.x[:, 0].mean() > 0.5, "red images must be red"
    with torch.no_grad(), mode(trial.original.module, train=False):
        assert torch.equal(trial.original.outputs(batch), model(batch.x).logits)
        trial.original.features(batch)
        assert trial.original.head.startswith("classifier")
        next(trial.original.module.parameters()).mul_(0.9)
        wanted = trial.original.outputs(batch)
    assert trial.oracles == []
    out = save_like(trial.original, tmp_path / "unlearned")
    assert json.loads((out / "preprocessor_config.json").read_text()) == PROCESSORS[kind]
    assert not list(out.rglob("*.bin"))
    again = pool(Custom(request=request("class=red"), **{**fields, "model": str(out)}), tmp_path).trial(
        Seeds()
    )
    with torch.no_grad(), mode(again.original.module, train=False):
        assert torch.equal(again.original.outputs(batch), wanted)
    flat = save_like(trial.original, tmp_path / "flat.safetensors")
    assert set(load_tensors(flat)) == set(model.state_dict())


def test_untrained_twins_of_a_transformers_model_differ(tmp_path, pictures):
    tiny("vit").save_pretrained(tmp_path / "model")
    scenario = Custom(request=request("class=red"), model=str(tmp_path / "model"), data=str(pictures))
    given = scenario.original()
    assert isinstance(given, Classifier)
    one, two = (given.fresh(torch.Generator().manual_seed(s)) for s in (1, 1))
    assert weights_hash(one.module.state_dict()) == weights_hash(two.module.state_dict())
    assert weights_hash(one.module.state_dict()) != weights_hash(given.module.state_dict())


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # between peft and transformers
def test_a_folder_of_an_adapter_is_read_with_its_base(tmp_path):
    """What is written by keep="adapter" comes back with equal outputs, as plain weights that any method may change."""
    from unlearn.ops.peft_adapter import with_adapter

    base = tiny("vit")
    base.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "preprocessor_config.json").write_text(json.dumps(PROCESSORS["vit"]))
    found = load_classifier(str(tmp_path / "base"))
    name = next(
        n for n, m in found.module.named_modules() if isinstance(m, torch.nn.Linear) and m.out_features == 32
    )
    rng = torch.Generator().manual_seed(0)
    factors = {name: (torch.randn(2, 16, generator=rng), torch.randn(32, 2, generator=rng))}
    adapted = with_adapter(found.module, factors)
    save_like(Classifier(adapted, 3), tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = load_classifier(str(tmp_path / "adapter"))
    x = torch.randn(2, 3, 16, 16, generator=rng)
    with torch.no_grad():
        torch.testing.assert_close(again.module(x).logits, adapted.eval()(x).logits, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(again.module(x).logits, base(x).logits, atol=1e-3)
    assert {n for n, _ in again.module.named_parameters()} == {n for n, _ in base.named_parameters()}
    assert again.frame == found.frame and again.pixels == found.pixels and again.classes == found.classes


def test_a_configuration_says_how_to_build_and_needs_weights(tmp_path, pictures):
    model = tiny("resnet")
    model.config.save_pretrained(tmp_path)
    where = str(tmp_path / "config.json")
    fields = {"model": where, "data": str(pictures), "size": 16}
    assert "holds no weights; name them with weights=FILE" in str(
        message(Custom(request=request("class=red"), **fields), tmp_path)
    )
    save_tensors(tmp_path / "mine.safetensors", model.state_dict())
    asked = Custom(request=request("class=red"), weights=str(tmp_path / "mine.safetensors"), **fields)
    found = asked.original()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), mode(found.module, train=False):
        assert torch.equal(found.module(x).logits, model(x).logits)
    assert asked.material().train.labels.classes == ("red", "green", "blue")
    assert load_classifier(where).pixels == Pixels((0.0,) * 3, (1.0,) * 3), (
        "nothing says that pixels are normalised"
    )


def test_a_folder_without_a_model_is_refused(tmp_path, pictures):
    said = message(Custom(request=request("class=1"), model=str(tmp_path), data=str(pictures)), tmp_path)
    assert isinstance(said, BadWeights)
    assert "no image classifier at" in str(said)
    tiny("vit").save_pretrained(tmp_path / "model")
    said = message(Custom(request=request("class=1"), model=str(tmp_path / "model")), tmp_path)
    assert "name the data with data=" in str(said)


def test_preprocessing_is_read_as_transformers_means_it():
    class Config:
        num_channels = 3
        image_size = 224

    frame, pixels = image_input(Config, {})
    assert (frame.size, frame.shortest, pixels.mean) == ((224, 224), 0, (0.0, 0.0, 0.0))
    frame, _ = image_input(
        Config, {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    )  # fmt: skip
    assert (frame.size, frame.shortest) == ((224, 224), 256)
    frame, _ = image_input(Config, {"size": {"shortest_edge": 224}, "crop_pct": 0.875})
    assert (frame.size, frame.shortest) == ((224, 224), 256)
    frame, _ = image_input(Config, {"size": {"shortest_edge": 384}, "crop_pct": 0.875})
    assert (frame.size, frame.shortest) == ((384, 384), 0)
    assert image_input(Config, {"size": 32})[0].size == (32, 32)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_images_reach_the_model_as_transformers_prepares_them(kind):
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 51, 3)).astype(np.uint8))
    theirs = (ViTImageProcessorPil if kind == "vit" else ConvNextImageProcessorPil)(**PROCESSORS[kind])
    wanted = torch.as_tensor(theirs(picture, return_tensors="pt")["pixel_values"])
    frame, pixels = image_input(tiny(kind).config, PROCESSORS[kind])
    torch.testing.assert_close(pixels(frame.apply(picture)[None], None), wanted, rtol=0, atol=2e-6)
