"""Users' own models and data, in and out."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from unlearn.errors import BadData, BadValue, Mismatch, UnlearnError
from unlearn.ops.user_file import UserFile
from unlearn.ops.weights import save_like
from unlearn.patch import weights_hash
from unlearn.pool import Pool
from unlearn.request import parse as request
from unlearn.runtime import Run
from unlearn.scenario import Seeds, from_recipe
from unlearn.scenarios.custom import Custom
from unlearn.store import Store

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


PRETRAINED = """
from unlearn.networks import VisionTransformer

def images(n, seed):
    x, y = blobs(n, seed)
    return np.repeat(np.repeat(x.reshape(n, 1, 2, 2), 4, 2), 4, 3), y

def backbone():
    torch.manual_seed(7)
    return VisionTransformer(1, 3, width=8, depth=2)

def build():
    return backbone(), images(90, 0), images(60, 1)
"""


def test_a_pretrained_transformer_is_learned_in_slices_by_maps_of_low_rank(tmp_path):
    path = write(tmp_path, MINE + PRETRAINED + FIT)
    made = pool(custom(path, "indices=3:17", deletable="s3t:1x2"), tmp_path)
    trial = made.trial(Seeds())
    kept, given = trial.original.module, UserFile(f"{path}:backbone").call()
    assert weights_hash(kept.net.inner.state_dict()) == weights_hash(given.state_dict())
    assert {n for n in kept.spans if not n.startswith("maps.")} == {"inner.head.weight", "inner.head.bias"}
    seen = next(trial.handles["retain"].batches(100))
    assert (
        trial.original.outputs(seen).argmax(1) == seen.y
    ).float().mean() > 0.6  # of low rank, on random weights
    done, (_, forget, _) = trial.original.clone(), made.draw(Seeds(), 0)
    done.drop(torch.tensor([3, 17]))
    done.resume(trial.handles["retain"], Run(0, CPU))
    twin = made.trained(~forget, Seeds().train, "twin").subject
    assert weights_hash(done.module.state_dict()) == weights_hash(twin.module.state_dict())
    again = trial.original.fresh(torch.Generator().manual_seed(3)).module.net.inner
    assert weights_hash(again.state_dict()) == weights_hash(given.state_dict()), (
        "pre-trained weights are kept"
    )


def test_a_start_of_other_weights_is_another_original(tmp_path):
    """Also where the file that reads them is the same."""
    text = PRETRAINED.replace(
        "manual_seed(7)", "manual_seed(int(Path(__file__).with_name('seed').read_text()))"
    )
    path, found = write(tmp_path, "from pathlib import Path\n" + MINE + text + FIT), set()
    for k in (7, 8):
        path.with_name("seed").write_text(str(k))
        found.add(custom(path, "indices=3", deletable="s3t:1x2").material().content)
    assert len(found) == 2


def test_what_cannot_be_trained_in_slices_is_refused(tmp_path):
    said = message(custom(write(tmp_path), deletable="s3t:1x2"), tmp_path)
    assert isinstance(said, Mismatch) and "this is one without a recipe; return a plain module" in str(said)


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


IMAGES = """
import datasets, numpy as np, torch
from PIL import Image
from torch import nn

def images(n):
    return np.random.default_rng(n).integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)

def arrays(n): return images(n), np.arange(n) % 2
def tensors(n): return torch.from_numpy(images(n)).permute(0, 3, 1, 2), torch.arange(n) % 2
def pairs(n): return [[Image.fromarray(x), i % 2] for i, x in enumerate(images(n))]
def table(n):
    names = ["ape", "bee"] * n
    found = {"img": [Image.fromarray(x) for x in images(n)], "label": names[:n]}
    return datasets.Dataset.from_dict(found, features=datasets.Features(
        {"img": datasets.Image(), "label": datasets.Value("string")}))

def build():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    return net, FORM(40), FORM(30)
"""


@pytest.mark.parametrize("form", ["arrays", "tensors", "pairs", "table"])
def test_images_of_every_form_reach_the_model_alike(tmp_path, form):
    trial = pool(custom(write(tmp_path, IMAGES.replace("FORM", form))), tmp_path).trial(Seeds())
    x = torch.from_numpy(np.random.default_rng(40).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8))
    batch = next(trial.handles["forget"].batches(40))
    assert batch.index.tolist() == list(range(1, 40, 2))
    torch.testing.assert_close(batch.x, x.permute(0, 3, 1, 2)[1::2] / 255)
    assert (trial.handles["test"].y == trial.handles["test"].rows.cpu() % 2).all()
    assert trial.classes == (("ape", "bee") if form == "table" else ("0", "1"))
    assert next(trial.handles["surrogate"].batches(2)).x.shape == (2, 3, 8, 8)


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
        (MINE + "raise RuntimeError('out of\\nluck')\n", UnlearnError, "cannot be imported: RuntimeError: out of"),
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


def test_weights_of_a_plain_module_go_out_and_in(tmp_path):
    trial = pool(custom(write(tmp_path)), tmp_path).trial(Seeds())
    batch = next(trial.handles["test"].batches(10))
    with torch.no_grad():
        trial.original.module[0].weight.mul_(0.5)
    out = save_like(trial.original, tmp_path / "deep" / "unlearned.safetensors")
    again = pool(custom(tmp_path / "mine.py", weights=str(out)), tmp_path).trial(Seeds())
    assert torch.equal(again.original.outputs(batch), trial.original.outputs(batch))
    assert again.base != trial.base


def test_weights_that_are_not_finite_are_refused(tmp_path):
    text = MINE.replace(
        "    return net(), ",
        "    broken = net()\n    broken[0].weight.data[0] = float('nan')\n    return broken, ",
    )
    assert "weights hold NaN or infinite values, first in 0.weight" in str(
        message(custom(write(tmp_path, text)), tmp_path)
    )


def test_a_head_that_is_not_there_is_refused(tmp_path):
    assert "no layer called '7'" in str(message(custom(write(tmp_path, MINE), head="7"), tmp_path))


def test_an_oracle_that_somebody_retrained_is_the_reference(tmp_path):
    path, other = write(tmp_path), tmp_path / "retrained.safetensors"
    scenario = custom(path)
    before = pool(scenario, tmp_path).trial(Seeds())
    assert before.oracles == []
    made = before.original.clone()
    with torch.no_grad():
        made.module[0].bias += 1
    save_like(made, other)
    trial = pool(custom(path, retrained=str(other)), tmp_path).trial(Seeds())
    (oracle,) = trial.oracles
    assert weights_hash(oracle.module.state_dict()) == weights_hash(made.module.state_dict())
    assert any("is the word of whoever trained it" in n for n in trial.notes)
    both = custom(write(tmp_path, MINE + FIT, "fit.py"), retrained=str(other))
    assert "the oracle is trained here, because there is a recipe" in str(message(both, tmp_path))


def test_an_oracle_of_another_architecture_is_refused(tmp_path):
    wide = write(tmp_path, MINE.replace("(4, 8)", "(4, 9)").replace("(8, 3)", "(9, 3)"), "wide.py")
    other = tmp_path / "wide.safetensors"
    save_like(pool(custom(wide), tmp_path).trial(Seeds()).original, other)
    said = str(message(custom(write(tmp_path), retrained=str(other)), tmp_path))
    assert (
        "has shape (9, 4), the model wants (8, 4)" in said or "has shape (9,), the model wants (8,)" in said
    )


def test_owners_on_both_sides_are_noted(tmp_path):
    path = write(tmp_path, MINE + "groups = [f'owner {i % 7}' for i in range(90)]\n")
    trial = pool(custom(path), tmp_path).trial(Seeds())
    (said,) = [n for n in trial.notes if "owners" in n]
    assert said.startswith("7 owners of forgotten examples own retained ones too, such as owner 0: what is")
    trial = pool(custom(path, "group=owner 3"), tmp_path).trial(Seeds())
    assert not [n for n in trial.notes if "owners" in n]
