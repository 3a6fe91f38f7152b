"""Every code block of the README and of the page on plugins is executed, in order, in one empty folder."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipelines import build

from unlearn.report import Report

pytestmark = pytest.mark.xdist_group("readme")  # one store serves the file
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXTENDING = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README + EXTENDING, flags=re.DOTALL | re.MULTILINE)
FIRST = [text.splitlines()[0].strip("# ") for kind, text in BLOCKS if kind == "python"]
HUB = {
    "google/vit-base-patch16-224": "vit",
    "owner/images": "images",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "diffusion",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with local twins of the hub names."""
    folder = tmp_path_factory.mktemp("readme")
    _save_vit(folder / "vit")
    _save_images(folder / "images")
    build("sd1").save_pretrained(folder / "diffusion")
    return folder


def _save_vit(folder):
    from transformers import ViTConfig, ViTForImageClassification

    names = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                       image_size=16, patch_size=8, **names)  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    processor = {"do_resize": True, "size": {"height": 16, "width": 16}, "do_normalize": True, "do_rescale": True,
                 "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "ViTImageProcessor"}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def _save_images(folder):
    rng = np.random.default_rng(0)
    for split, label, i in itertools.product(("train", "test"), (0, 1), range(24)):
        place = folder / split / ("dark", "light")[label]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(120 * label, 120 * label + 100, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")


@pytest.fixture(scope="module")
def environment(place):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "UNLEARN_STORE": str(place / "store"), "COLUMNS": "120"}


def test_the_readme_is_short():
    assert len(README.splitlines()) < 200


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for kind, text in BLOCKS:
        if kind == "sh":
            for target in re.findall(r"make (\w+)", text):
                assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_every_kind_of_block_is_known():
    assert {kind for kind, _ in BLOCKS} == {"sh", "bash", "python", "toml"}


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "python"], ids=FIRST)
def test_every_program_is_written_down_or_runs(text, place, environment):
    _python(_local(text, place), place, environment)


@pytest.mark.parametrize(
    "line", [line for kind, text in BLOCKS if kind == "bash" for line in text.strip().splitlines()]
)
def test_every_command_runs(line, place, environment):
    """In the order of the page, as later ones use what earlier ones wrote, and after the programs that they name."""
    _run(["bash", "-c", _local(line, place)], line, place, environment)


def test_the_first_erasure_shows_an_erased_digit_intact_neighbours_and_intact_styles(place, environment):
    """What the first command of the section on erasure found, with the thresholds that were set for it beforehand."""
    words = ["unlearn", "erase", "three", "--json"]
    done = subprocess.run(
        words, cwd=place, env=environment, capture_output=True, text=True, check=True, timeout=200
    )
    (report,) = [Report.model_validate(r) for r in json.loads(done.stdout)]
    ua, near, far = (report.score(f"erasure/{n}") for n in ("ua", "in-domain", "cross-domain"))
    assert ua.original <= 0.1 and ua.value >= 0.75, "at most a quarter of its drawings may still show it"
    assert near.value >= 0.85 and far.value >= 0.9
    assert ua.reference >= 0.9 and near.reference >= 0.95, "the oracle never saw it and draws the rest"


def _python(text, place, environment):
    name = re.match(r"# file: (\S+)\n", text)
    path = place / (name.group(1) if name else "block.py")
    path.write_text(text)
    if not name:
        _run([sys.executable, path.name], text, place, environment)


def _local(text, place):
    """With the local twins of hub names."""
    for hub, local in HUB.items():
        text = text.replace(hub, str(place / local))
    return text


def _run(command, what, place, environment):
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, f"{what}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
