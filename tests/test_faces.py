"""The scenario on faces: forty identities, fixed parts, statistics, refusals."""

import numpy as np
import pytest
import torch
from PIL import Image

from unlearn.errors import BadData, BadValue
from unlearn.ops.loaders import load
from unlearn.ops.pictures import Frame
from unlearn.ops.tables import Columns
from unlearn.pool import Pool
from unlearn.scenario import Seeds, parse
from unlearn.scenarios.faces import PEOPLE, Faces
from unlearn.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for name in PEOPLE:
        (place / name).mkdir()
        for k in range(1, 11):
            Image.fromarray(rng.integers(0, 255, (14, 12), np.uint8)).save(place / name / f"{k}.pgm")
    return place


def test_one_identity_is_forgotten_beside_its_oracle(folder, tmp_path):
    pool = Pool(parse(f"faces/class=s7,data={folder},epochs=1"), Store(tmp_path), torch.device("cpu"))
    trial = pool.trial(Seeds())
    sizes = {n: len(h) for n, h in trial.handles.items() if n != "surrogate"}
    assert sizes == {"forget": 6, "retain": 234, "validation": 40, "fit": 40, "test": 80}
    assert [trial.classes[c] for c in trial.removed] == ["s7"] and len(trial.oracles) == 1
    parts = [h.rows.tolist() for n, h in trial.handles.items() if n != "surrogate"]
    rows = [r for part in parts for r in part]
    assert len(rows) == len(set(rows)) == 400, "no photograph is in two parts"
    for name, want in (("validation", 1), ("fit", 1), ("test", 2)):
        assert trial.handles[name].y.bincount(minlength=40).tolist() == [want] * 40


def test_other_folders_and_given_weights_are_refused(folder, tmp_path):
    (tmp_path / "s1").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "s1" / "1.pgm")
    with pytest.raises(BadData, match="holds 1 folders of images, not the people s1 to s40; give the folder"):
        parse(f"faces/class=s1,data={tmp_path}").material()
    with pytest.raises(BadValue, match="no official training set that given weights could belong to"):
        parse(f"faces/class=s1,data={folder},weights=w.safetensors").material()


def test_the_channel_statistics_are_those_of_the_set(shared):
    found = load(str(shared / "faces_orl"), Columns(), Frame((32, 32), 1)).train
    x = found.source.fetch(torch.arange(len(found.rows))).double() / 255
    (mean,), (std,) = Faces.stats
    assert x.mean().item() == pytest.approx(mean, abs=6e-3)
    assert x.std().item() == pytest.approx(std, abs=6e-3)
