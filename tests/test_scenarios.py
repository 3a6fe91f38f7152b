"""Scenarios on real images: formats, splits, pretrained originals."""

from __future__ import annotations

import gzip
import json
import shutil
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from unlearn.errors import BadData, BadWeights, UnlearnError
from unlearn.networks import resnet20
from unlearn.ops.division import divide, limited, part
from unlearn.ops.loaders import load
from unlearn.ops.steps import accuracy
from unlearn.ops.tables import Columns
from unlearn.patch import save_tensors
from unlearn.pool import Pool
from unlearn.registry import scenarios
from unlearn.request import Labels, parse
from unlearn.scenario import Seeds, from_recipe
from unlearn.scenario import parse as scenario
from unlearn.scenarios.cifar100 import FINE
from unlearn.sources import Arrays, Pixels
from unlearn.store import Store

CPU = torch.device("cpu")
N = {"train": 200, "test": 100}


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    """No look at the hub, and the caches of `datasets` in a folder of this test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def made(split, side=32, channels=3, classes=10):
    """Images (N, H, W, C) whose first pixel tells their position, and labels."""
    rng = np.random.default_rng(len(split))
    x = rng.integers(0, 256, (N[split], side, side, channels)).astype(np.uint8)
    x[:, 0, 0, 0] = np.arange(N[split])
    return x, np.arange(N[split]) % classes


def write(folder, form, side=32, channels=3, classes=10, columns=("img", "label")):
    """The same images in one of the formats that are read."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in N:
        x, y = made(split, side, channels, classes)
        if form == "npy":
            np.save(folder / f"{split}_images.npy", x)
            np.save(folder / f"{split}_labels.npy", y)
        elif form == "idx":
            stem = "t10k" if split == "test" else split
            image = b"\0\0\x08\x03" + struct.pack(">3i", len(x), side, side) + x.tobytes()
            (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(image))
            label = b"\0\0\x08\x01" + struct.pack(">i", len(y)) + y.astype(np.uint8).tobytes()
            (folder / f"{stem}-labels-idx1-ubyte").write_bytes(label)
        elif form == "folders":
            for i, (image, c) in enumerate(zip(x, y, strict=True)):
                place = folder / split / f"class{c}"
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(place / f"{i:03}.png")
    if form in ("parquet", "saved"):
        tables(folder, form, {s: made(s, side, channels, classes) for s in N}, columns)
    return folder


def tables(folder, form, splits, columns):
    import datasets

    features = datasets.Features({columns[0]: datasets.Image(), columns[1]: datasets.Value("int64")})
    found = {
        s: datasets.Dataset.from_dict(
            {columns[0]: [Image.fromarray(i) for i in x], columns[1]: y}, features=features
        )
        for s, (x, y) in splits.items()
    }
    if form == "saved":
        datasets.DatasetDict(found).save_to_disk(str(folder))
        return
    for split, table in found.items():
        (folder / "plain_text").mkdir(exist_ok=True)
        table.to_parquet(folder / "plain_text" / f"{split}-00000-of-00001.parquet")


def whole(p):
    return p.source.fetch(p.rows)


# ---- formats


@pytest.mark.parametrize("form", ["npy", "parquet", "saved", "folders"])
def test_every_format_gives_the_same_images_and_labels(tmp_path, form):
    found = load(str(write(tmp_path / "data", form)))
    for split, p in (("train", found.train), ("test", found.test)):
        x, y = made(split)
        images, labels = whole(p), p.labels.y
        at = images[:, 0, 0, 0].argsort() if form == "folders" else torch.arange(len(y))
        assert images.dtype == torch.uint8
        assert torch.equal(images[at], torch.from_numpy(x).permute(0, 3, 1, 2))
        assert labels[at].tolist() == y.tolist()
    if form == "folders":
        assert found.train.labels.classes == tuple(f"class{c}" for c in range(10))


def test_idx_files_are_read_zipped_or_not(tmp_path):
    found = load(str(write(tmp_path / "data", "idx", 28, 1)))
    x, y = made("train", 28, 1)
    assert torch.equal(whole(found.train), torch.from_numpy(x).permute(0, 3, 1, 2))
    assert found.train.labels.y.tolist() == y.tolist()
    path = tmp_path / "data" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BadData, match="is no complete idx file"):
        load(str(tmp_path / "data"))
    path.unlink()
    with pytest.raises(BadData, match=r"holds no train-images-idx3-ubyte\.gz"):
        load(str(tmp_path / "data"))


def test_the_content_is_that_of_the_data_and_not_of_their_place(tmp_path):
    one = load(str(write(tmp_path / "one", "npy"))).content
    assert load(str(write(tmp_path / "two", "npy"))).content == one
    x = np.load(tmp_path / "two" / "test_images.npy")
    x[5, 5, 5, 0] ^= 1
    np.save(tmp_path / "two" / "test_images.npy", x)
    assert load(str(tmp_path / "two")).content != one


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: shutil.rmtree(f), "no folder"),
        (lambda f: [p.unlink() for p in f.glob("*.npy")], "holds no data that can be read"),
        (lambda f: (f / "train_labels.npy").unlink(), "cannot read"),
        (lambda f: (f / "train_images.npy").write_bytes(b"junk"), "cannot read"),
        (lambda f: [p.unlink() for p in f.glob("test_*")], "no test images"),
        (lambda f: np.save(f / "train_labels.npy", np.zeros(7, int)), "differ in length"),
        (lambda f: np.save(f / "train_labels.npy", np.full(200, 10)), "label 10 in row 0 is out of range"),
        (lambda f: np.save(f / "train_images.npy", np.zeros((200, 28, 28, 3), np.uint8)), "have shape"),
    ],
)
def test_bad_folders_are_refused_in_one_line(tmp_path, spoil, words):
    folder = write(tmp_path / "data", "npy")
    spoil(folder)
    with pytest.raises(UnlearnError) as err:
        Pool(scenario(f"cifar10/class=3,data={folder}"), Store(tmp_path / "store"), CPU)
    assert words in str(err.value)
    assert "\n" not in str(err.value)


def test_an_unknown_hub_name_says_what_was_tried(monkeypatch):
    import datasets

    def refuse(_name):
        raise ConnectionError("Couldn't reach the Hub\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(BadData, match="the hub said: Couldn't reach the Hub; give a folder with data=PATH"):
        scenario("cifar10/class=3").material()


def test_columns_are_found_or_named(tmp_path):
    folder = write(tmp_path / "data", "saved", columns=("photo", "kind"))
    with pytest.raises(BadData, match="no column looks like the label; there are photo, kind"):
        load(str(folder))
    found = load(str(folder), Columns(label="kind"))
    assert found.train.labels.y[:3].tolist() == [0, 1, 2]
    with pytest.raises(BadData, match="no column 'age' for the group; there are"):
        load(str(folder), Columns(label="kind", group="age"))
    with pytest.raises(BadData, match="no split called 'dev'; there are test, train"):
        load(str(folder), Columns(label="kind", test="dev"))
    with pytest.raises(BadData, match="no split called 'dev'; there are test, train"):
        load(str(folder), Columns(label="kind", train="dev"))


# ---- division


def random_part(n, classes=5):
    y = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(1))
    return part(Arrays(torch.arange(n)[:, None].float(), y), Labels(y, tuple("abcde")))


@pytest.mark.parametrize("pretrained", [False, True])
def test_nothing_is_scored_on_what_fitted_or_tuned_it(pretrained):
    train, test = random_part(1000), random_part(600)
    parts = divide(train, test, pretrained)
    kept, validation, fit, score = (set(p.rows.tolist()) for p in parts)
    assert not fit & score
    if pretrained:
        assert kept == set(range(1000)), "the original saw all of train"
        assert not validation & (fit | score)
        assert validation | fit | score == set(range(600))
    else:
        assert kept | validation == set(range(1000))
        assert not kept & validation
        assert fit | score == set(range(600))
    sizes = [1000, 120, 240, 240] if pretrained else [900, 100, 300, 300]
    assert all(abs(len(p.rows) - n) <= 5 for p, n in zip(parts, sizes, strict=True))
    for p, of in zip(parts, (train, test if pretrained else train, test, test), strict=True):
        share = p.labels.y.bincount(minlength=5) / len(p.rows)
        assert (share - of.labels.y.bincount(minlength=5) / len(of.rows)).abs().max() < 0.02
        assert torch.equal(p.labels.y, p.source.y[p.rows])


def test_a_limit_keeps_the_share_of_every_class():
    small = limited(random_part(1000), 100)
    assert abs(len(small.rows) - 100) <= 5
    assert limited(small, 0) is small
    assert limited(small, 10**6) is small
    share = small.labels.y.bincount() / len(small.rows)
    assert (share - random_part(1000).labels.y.bincount() / 1000).abs().max() < 0.03


def test_too_few_held_out_examples_are_refused():
    with pytest.raises(BadData, match="3 held-out examples are too few to divide"):
        divide(random_part(100), random_part(3), True)


# ---- the scenarios


IMAGES = ("cifar10", "cifar100", "mnist", "fashion-mnist")


@pytest.fixture
def small(tmp_path):
    """Gives a folder for a scenario, with images of its shape."""

    def of(name):
        grey = "mnist" in name
        return write(tmp_path / name, "idx" if grey else "npy", *((28, 1) if grey else (32, 3)))

    return of


@pytest.mark.parametrize("name", IMAGES)
def test_a_trial_of_every_image_scenario(tmp_path, small, name):
    text = f"{name}/class=3,data={small(name)},network=resnet8,epochs=1"
    pool = Pool(scenario(text), Store(tmp_path / "store"), CPU)
    trial = pool.trial(Seeds())
    sizes = {n: len(h) for n, h in trial.handles.items()}
    assert sizes == {
        "forget": 18,
        "retain": 162,
        "validation": 20,
        "fit": 50,
        "test": 50,
        "surrogate": 2000,
    }
    assert trial.removed == (3,)
    assert len(trial.oracles) == 1
    assert trial.original.classes == len(trial.classes) == (100 if name == "cifar100" else 10)
    side, channels = type(pool.scenario).side, type(pool.scenario).channels
    for handle in trial.handles.values():
        batch = next(handle.batches(2))
        assert batch.x.shape == (2, channels, side, side)
    assert from_recipe(json.loads(json.dumps(pool.scenario.recipe()))) == pool.scenario
    assert pool.template.recipe.describe()["epochs"] == 1


@pytest.mark.parametrize("name", IMAGES)
def test_the_channel_statistics_are_those_of_the_set(shared, name):
    if name == "cifar100":
        pytest.skip("only a part of CIFAR-100 is at hand")
    cls = scenarios.get(name)
    x = real(shared, name)
    mean, std = (torch.tensor(v) for v in cls.stats)
    assert torch.allclose(x.mean((0, 2, 3)), mean, atol=6e-3)
    assert torch.allclose(x.transpose(0, 1).flatten(1).std(1), std, atol=6e-3)


def real(shared, name):
    """Real training images on the 0..1 scale: all of the grey sets, 10,000 of CIFAR-10."""
    if name != "cifar10":
        return whole(load(str(shared / name.replace("-", "_"))).train) / 255
    return torch.from_numpy(mosaics(shared, "train", 5)).permute(0, 3, 1, 2) / 255


def mosaics(shared, split, n):
    """The first n x 2,000 images of CIFAR-10, uint8 with shape (N, 32, 32, 3)."""
    parts = []
    for i in range(n):
        tile = np.asarray(Image.open(shared / "cifar10" / f"{split}_{i:02}.webp").convert("RGB"))
        parts.append(tile.reshape(40, 32, 50, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3))
    return np.concatenate(parts)


def test_subclasses_of_cifar100_are_forgotten_inside_their_superclass(tmp_path):
    folder = write(tmp_path / "data", "npy", classes=100)
    material = scenario(f"cifar100/subclass=rocket,data={folder},predict=coarse").material()
    labels = material.train.labels
    rows = parse("subclass=rocket").rows(labels, torch.Generator())
    assert {labels.classes[c] for c in labels.y[rows].tolist()} == {"vehicles_2"}
    assert len(labels.classes) == 20
    # labels reach handles through the source: they must be the coarse ones there too
    assert torch.equal(material.train.source.y[material.train.rows], labels.y)
    trial = Pool(
        scenario(f"cifar100/subclass=rocket,data={folder},predict=coarse,network=resnet8,epochs=1"),
        Store(tmp_path / "store"),
        CPU,
    ).trial(Seeds())
    assert set(trial.handles["forget"].y.tolist()) == {19}
    assert trial.removed == ()
    held = [
        [trial.views[v].rows.tolist(), (p.labels.fine == FINE.index("rocket")).nonzero().flatten().tolist()]
        for v, p in (("audit", material.test), ("audit_fit", material.fit))
    ]
    assert any(rockets for _, rockets in held)
    assert all(rows == rockets for rows, rockets in held if rockets), "non-members are of the sub-class too"


def test_limits_make_it_fit_a_laptop(tmp_path):
    folder = write(tmp_path / "data", "npy")
    material = scenario(f"cifar10/class=3,data={folder},limit=90,test_limit=40").material()
    sizes = [len(p.rows) for p in (material.train, material.validation, material.fit, material.test)]
    assert sizes == [90, 10, 20, 20]


def test_a_folder_of_surrogates_replaces_the_photographs(tmp_path):
    folder = write(tmp_path / "data", "npy")
    other = write(tmp_path / "other", "folders", side=40)
    material = scenario(f"cifar10/class=3,data={folder},surrogate={other}").material()
    assert len(material.surrogate) == 200
    assert material.surrogate.fetch(torch.tensor([0])).shape == (1, 3, 32, 32)


def test_a_pretrained_original_has_no_oracle_and_the_trial_says_so(tmp_path):
    folder = write(tmp_path / "data", "npy")
    torch.manual_seed(0)
    module = resnet20()
    save_tensors(tmp_path / "w.safetensors", module.state_dict())
    text = f"cifar10/class=3,data={folder},network=resnet20,weights={tmp_path / 'w.safetensors'}"
    trial = Pool(scenario(text + ",normalise=imagenet"), Store(tmp_path / "store"), CPU).trial(Seeds())
    assert trial.oracles == []
    assert "there is no oracle" in trial.notes[0]
    assert len(trial.handles["forget"]) + len(trial.handles["retain"]) == 200
    assert [len(trial.handles[n]) for n in ("validation", "fit", "test")] == [20, 40, 40]
    x = torch.from_numpy(made("train")[0][3:4]).permute(0, 3, 1, 2)
    imagenet = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    batch = next(trial.handles["forget"].batches(1))
    assert torch.equal(batch.x, imagenet(x, None))
    module.eval()
    trial.original.module.eval()
    assert torch.equal(trial.original.outputs(batch), module(batch.x))
    with pytest.raises(BadWeights, match="the model wants"):
        scenario(text.replace("resnet20,", "resnet18,")).original()


def test_the_pretrained_resnet20_is_as_good_as_its_authors_say(shared, tmp_path):
    """91.73 % on the 10,000 test images; here on the first 2,000, where it is 91.8 %."""
    np.save(tmp_path / "test_images.npy", mosaics(shared, "test", 1))
    np.save(tmp_path / "train_images.npy", mosaics(shared, "train", 1)[:50])
    with np.load(shared / "cifar10" / "test_labels.npz") as found:
        np.save(tmp_path / "test_labels.npy", found["label"][:2000].astype(np.int64))
    with np.load(shared / "cifar10" / "train_labels.npz") as found:
        np.save(tmp_path / "train_labels.npy", found["label"][:50].astype(np.int64))
    weights = shared / "weights" / "cifar10_resnet" / "resnet20-12fca82f.th"
    text = f"cifar10/class=3,data={tmp_path},network=resnet20,normalise=imagenet,weights={weights}"
    trial = Pool(scenario(text), Store(tmp_path / "store"), CPU).trial(Seeds())
    parts = [trial.handles[n] for n in ("validation", "fit", "test")]
    hits = sum(accuracy(trial.original, h) * len(h) for h in parts)
    assert sum(map(len, parts)) == 2000
    assert abs(hits / 2000 - 0.9173) < 3 * (0.9173 * 0.0827 / 2000) ** 0.5


# ---- label noise of the embedded scenario


def test_wrong_labels_are_memorised(tmp_path):
    pool = Pool(scenario("digits/noisy,noise=0.1"), Store(tmp_path), CPU)
    original, labels = pool.original(0).subject, pool.material.train.labels
    wrong = pool.shelf.of(pool.material.train, labels.spoilt)
    assert len(wrong) == round(0.1 * len(labels.y))
    assert accuracy(original, wrong) > 0.9
    assert accuracy(original, pool.shelf.of(pool.material.train)) > 0.98
