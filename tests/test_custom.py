"""Users' own models and data, in and out."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from unlearn.errors import BadData, BadValue, BadWeights, Mismatch, UnlearnError
from unlearn.ops.pretrained import image_input
from unlearn.ops.user_file import UserFile
from unlearn.ops.weights import load_into, read_weights, save_like
from unlearn.patch import load_tensors, save_tensors, weights_hash
from unlearn.pool import Pool
from unlearn.request import parse as request
from unlearn.scenario import Seeds, from_recipe
from unlearn.scenarios.custom import Custom
from unlearn.store import Store
from unlearn.subject import mode
from unlearn.subjects.classifier import Classifier

CPU = torch.device("cpu")

MINE = """
import numpy as np, torch
from torch import nn

def blobs(n, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, 4)).astype("float32")
    x[np.arange(n), y] += 4
    return x, y

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

def build():
    return net(), blobs(90, 0), blobs(60, 1)
"""

FIT = """
def fit(module, batches, seed):
    opt = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(30):
        for x, y in batches(16):
            opt.zero_grad()
            nn.functional.cross_entropy(module(x), y).backward()
            opt.step()
"""


def write(folder, text=MINE, name="mine.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def custom(path, ask="class=1", **fields):
    return Custom(request=request(ask), model=f"{path}:build", **fields)


def pool(scenario, tmp_path):
    return Pool(scenario, Store(tmp_path / "store"), CPU)


def message(scenario, tmp_path):
    """The one line with which a scenario is refused."""
    with pytest.raises(UnlearnError) as err:
        pool(scenario, tmp_path).trial(Seeds())
    assert "\n" not in str(err.value)
    return err.value


def test_a_plain_module_with_arrays_needs_nothing_else(tmp_path):
    trial = pool(custom(write(tmp_path)), tmp_path).trial(Seeds())
    assert trial.original.classes == 3
    assert len(trial.handles["forget"]) == 30
    assert len(trial.handles["retain"]) == 60
    assert [len(trial.handles[h]) for h in ("validation", "fit", "test")] == [12, 24, 24]
    assert trial.oracles == []
    assert "no oracle" in trial.notes[0]
    batch = next(trial.handles["forget"].batches(5))
    hidden = torch.relu(trial.original.module[0](batch.x))
    assert torch.equal(trial.original.features(batch), hidden)
    assert trial.original.head == "2"


def test_positions_are_those_of_the_users_own_data(tmp_path):
    trial = pool(custom(write(tmp_path), "indices=7:0:89"), tmp_path).trial(Seeds())
    x = torch.cat([b.x for b in trial.handles["forget"].batches(8)])
    mine = UserFile(str(tmp_path / "mine.py")).get("blobs")(90, 0)[0]
    assert torch.equal(x, torch.from_numpy(mine[[0, 7, 89]]))


def test_with_fit_the_oracle_is_trained_from_new_weights(tmp_path):
    scenario = custom(write(tmp_path, MINE + FIT))
    trial = pool(scenario, tmp_path).trial(Seeds())
    (oracle,) = trial.oracles
    given = UserFile(f"{tmp_path / 'mine.py'}:net").call()
    assert weights_hash(trial.original.module.state_dict()) == weights_hash(given.state_dict())
    retain, forget = (next(trial.handles[h].batches(100)) for h in ("retain", "forget"))
    assert (oracle.outputs(retain).argmax(1) == retain.y).float().mean() > 0.95
    assert not (oracle.outputs(forget).argmax(1) == forget.y).any()


def test_train_makes_the_original_by_fit_too(tmp_path):
    path = write(tmp_path, MINE + FIT)
    trial = pool(custom(path, train=True), tmp_path).trial(Seeds())
    forget = next(trial.handles["forget"].batches(100))
    assert (trial.original.outputs(forget).argmax(1) == forget.y).float().mean() > 0.95
    assert isinstance(message(custom(write(tmp_path), train=True), tmp_path), Mismatch)


def test_json_alone_rebuilds_it_in_another_process(tmp_path):
    scenario = custom(write(tmp_path), "random=0.2", limit=60)
    recipe = json.dumps(scenario.recipe())
    code = (
        "import json,sys;from unlearn.scenario import from_recipe;"
        "print(from_recipe(json.loads(sys.argv[1])).material().content)"
    )
    done = subprocess.run([sys.executable, "-c", code, recipe], capture_output=True, text=True, check=True)
    assert from_recipe(json.loads(recipe)) == scenario
    assert done.stdout.strip() == scenario.material().content


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rng.normal", "1.5 * rng.normal"),  # other data, same labels
        ("torch.manual_seed(0)", "torch.manual_seed(1)"),  # other weights
        ("def net", "# a remark\ndef net"),  # another file
    ],
)
def test_file_weights_and_data_decide_the_address(tmp_path, old, new):
    before = pool(custom(write(tmp_path)), tmp_path).trial(Seeds()).base
    assert pool(custom(write(tmp_path)), tmp_path).trial(Seeds()).base == before
    changed = write(tmp_path, MINE.replace(old, new))
    assert pool(custom(changed), tmp_path).trial(Seeds()).base != before


@pytest.mark.parametrize(
    ("returned", "classes"),
    [
        ("net(), tuple(map(torch.as_tensor, blobs(90, 0))), tuple(map(torch.as_tensor, blobs(60, 1)))", 3),
        ("net(), Pairs(blobs(90, 0)), Pairs(blobs(60, 1))", 3),
        ("net(), Table(blobs(90, 0)), Table(blobs(60, 1))", 3),
        ("Classifier(net(), 3), blobs(90, 0), blobs(60, 1)", 3),
    ],
)
def test_forms_of_data_agree(tmp_path, returned, classes):
    extra = """
    import datasets
    from unlearn import Classifier
    class Pairs(torch.utils.data.Dataset):
        def __init__(self, xy): self.x, self.y = xy
        def __len__(self): return len(self.y)
        def __getitem__(self, i): return torch.as_tensor(self.x[i]), int(self.y[i])
    def Table(xy):
        return datasets.Dataset.from_dict({"rows": xy[0].tolist(), "label": xy[1].tolist()})
    def build():
        return """
    path = write(tmp_path, MINE + textwrap.dedent(extra).rstrip() + f" {returned}\n")
    fields = {"image_column": "rows"} if "Table" in returned else {}
    trial = pool(custom(path, **fields), tmp_path).trial(Seeds())
    plain = pool(custom(write(tmp_path, name="plain.py")), tmp_path).trial(Seeds())
    assert trial.original.classes == classes
    for name, handle in plain.handles.items():
        ours = next(trial.handles[name].batches(1000))
        theirs = next(handle.batches(1000))
        assert torch.equal(ours.x.float(), theirs.x), name
        assert torch.equal(ours.y, theirs.y), name


def test_names_of_classes_and_owners_come_from_the_file(tmp_path):
    text = MINE + "classes = ['a', 'b', 'c']\ngroups = ['ann', 'bob', 'cy'] * 30\n"
    trial = pool(custom(write(tmp_path, text), "class=b"), tmp_path).trial(Seeds())
    assert trial.classes == ("a", "b", "c")
    trial = pool(custom(write(tmp_path, text), "group=bob"), tmp_path).trial(Seeds())
    assert trial.handles["forget"].rows.tolist() == list(range(1, 90, 3))
    assert "89 owners" not in str(message(custom(write(tmp_path, text), "group=eve"), tmp_path))
    short = write(tmp_path, MINE + "groups = ['ann'] * 89\n")
    assert "89 owners for 90" in str(message(custom(short), tmp_path))


def test_a_users_transform_is_applied_to_batches(tmp_path):
    path = write(tmp_path, MINE + "def transform(x):\n    return 2 * x\n")
    doubled = pool(custom(path), tmp_path).trial(Seeds()).handles["test"]
    plain = pool(custom(write(tmp_path, name="plain.py")), tmp_path).trial(Seeds()).handles["test"]
    assert torch.equal(next(doubled.batches(9)).x, 2 * next(plain.batches(9)).x)
    assert " at 0x" not in repr(doubled.transform) + repr(plain.transform)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (MINE.replace("x[np", "x[0, 0] = np.nan\n    x[np"), BadData, "NaN or infinite values in 1 of 90 rows"),
        (MINE.replace("x[np", "x[5, 0] = np.inf\n    x[np"), BadData, "the first is row 5"),
        (MINE.replace("% 3\n", "% 3\n    y[4] = 3\n"), BadData, "label 3 in row 4 is out of range"),
        (MINE.replace("blobs(90, 0)", "blobs(0, 0)"), BadData, "empty"),
        (MINE.replace("blobs(60, 1)", "blobs(3, 1)"), BadData, "too few to divide"),
        (MINE.replace("nn.Linear(4, 8)", "nn.Linear(5, 8)"), BadData, "does not accept inputs of shape (4,)"),
        (MINE.replace("return net(), blobs(90, 0), blobs(60, 1)", "return net(), 7, 8"), BadData, "type int"),
        (MINE.replace("return net(), ", "return 1, "), BadValue, "returned int as the model"),
        (MINE.replace("return net(), blobs(90, 0), blobs(60, 1)", "return net()"), BadValue, "no data"),
        (MINE.replace("return net(), blobs(90, 0), blobs(60, 1)", "return net(), blobs(90, 0)"), BadData, "no test data"),
        (MINE.replace("def build", "def make"), UnlearnError, "no function in mine.py called 'build'"),
        (MINE + "raise RuntimeError('out of\\nluck')\n", BadValue, "cannot be imported: RuntimeError: out of"),
        (MINE.replace("return net(), ", "return missing, "), BadValue, "build() raised NameError"),
        (MINE + "fit = 3\n", BadValue, "fit must be a function, it is int"),
        (MINE.replace("nn.Linear(8, 3)", "nn.Linear(8, 1)"), BadData, "must return logits of shape (B, C)"),
        (MINE.replace("return x, y", "return x, [str(v) for v in y]"), BadData, "targets are no numbers"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(tmp_path, text, kind, words):
    said = message(custom(write(tmp_path, text)), tmp_path)
    assert isinstance(said, kind)
    assert words in str(said)


def test_nothing_or_a_missing_file_is_refused(tmp_path):
    assert "say which model" in str(message(Custom(request=request("class=1")), tmp_path))
    assert "no file" in str(message(custom(tmp_path / "none.py"), tmp_path))


def test_a_layer_can_be_named_as_the_head(tmp_path):
    trial = pool(custom(write(tmp_path), head="0"), tmp_path).trial(Seeds())
    batch = next(trial.handles["test"].batches(4))
    assert torch.equal(trial.original.features(batch), batch.x)


def test_a_module_that_cannot_be_reset_says_what_to_do(tmp_path):
    own = """
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.ones(4))
        def forward(self, x):
            return x * self.by
    """
    text = (MINE + FIT).replace("nn.Sequential(", "nn.Sequential(Scale(), ") + textwrap.dedent(own)
    said = message(custom(write(tmp_path, text)), tmp_path)
    assert isinstance(said, Mismatch)
    assert "Scale owns weights but has no reset_parameters()" in str(said)


# ---- weights


def test_weights_of_a_plain_module_go_out_and_in(tmp_path):
    trial = pool(custom(write(tmp_path)), tmp_path).trial(Seeds())
    batch = next(trial.handles["test"].batches(10))
    with torch.no_grad():
        trial.original.module[0].weight.mul_(0.5)
    out = save_like(trial.original, tmp_path / "deep" / "unlearned.safetensors")
    again = pool(custom(tmp_path / "mine.py", weights=str(out)), tmp_path).trial(Seeds())
    assert torch.equal(again.original.outputs(batch), trial.original.outputs(batch))
    assert again.base != trial.base


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def test_pickled_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(BadWeights, match="could do anything when it is loaded; save the tensors alone"):
        read_weights(tmp_path / "evil.pt")
    assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors"])
def test_truncated_weights_are_refused(tmp_path, name):
    state = nn.Linear(50, 50).state_dict()
    path = tmp_path / name
    torch.save(state, path) if path.suffix == ".pt" else save_tensors(path, state)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BadWeights) as err:
        read_weights(path)
    assert "\n" not in str(err.value)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 half a zip"])
def test_junk_is_refused_as_weights(tmp_path, content):
    path = tmp_path / "junk.pt"
    path.write_bytes(content)
    with pytest.raises(BadWeights, match=r"safetensors\.torch\.save_file"):
        read_weights(path)


def test_other_things_than_named_tensors_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(BadWeights, match="holds list, not named tensors"):
        read_weights(tmp_path / "list.pt")
    with pytest.raises(BadWeights, match="no weights at"):
        read_weights(tmp_path / "absent.pt")


def test_a_checkpoint_of_data_parallel_training_is_read(tmp_path):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save({"state_dict": {f"module.{n}": t for n, t in source.state_dict().items()}}, tmp_path / "c.th")
    load_into(target, tmp_path / "c.th")
    assert torch.equal(target.weight, source.weight)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nn.Linear(4, 2), "weight has shape (2, 4), the model wants (2, 3)"),
        (nn.Linear(3, 2, bias=False), "bias is missing"),
        (nn.Bilinear(1, 3, 2), "weight has shape"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, other, words):
    save_tensors(tmp_path / "w.safetensors", other.state_dict())
    with pytest.raises(BadWeights) as err:
        load_into(nn.Linear(3, 2), tmp_path / "w.safetensors")
    assert words in str(err.value)


# ---- transformers


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
