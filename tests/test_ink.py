"""The embedded pipeline of concept erasure: its data, its judges, what it draws."""

from pathlib import Path

import pytest
import torch

from unlearn.data import Batch
from unlearn.errors import BadWeights, UnknownName
from unlearn.ops.ink import OBJECTS, STYLES, prompts, render, scans
from unlearn.request import parse as request
from unlearn.scenario import parse
from unlearn.scenarios._diffusion import load_pipeline
from unlearn.scenarios.ink import ASSETS

pytestmark = pytest.mark.xdist_group("ink")  # diffusers is imported once
TEXT = "ink/concept=three,drawings=2"


@pytest.fixture(scope="module")
def scenario():
    return parse(TEXT)


@pytest.fixture(scope="module")
def gallery(scenario):
    return scenario.gallery(scenario.request)


def drawn(scenario, subject):
    ids = scenario.prompts(scenario.request)["prompts"].y
    batch = Batch(torch.zeros(len(ids), 0), ids, torch.arange(len(ids)))
    return subject.draw(batch, torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def drawings(scenario):
    return drawn(scenario, scenario.original())


def right(gallery, images, axis):
    return gallery.judges[axis](images).argmax(1) == gallery.asked[axis]


def test_inks_differ_and_repeat():
    (x, _), _ = scans()
    images = [
        render(x[:20], torch.full((20,), k), torch.Generator().manual_seed(0)) for k in range(len(STYLES))
    ]
    again = render(x[:20], torch.zeros(20, dtype=torch.long), torch.Generator().manual_seed(0))
    assert torch.equal(images[0], again)
    assert all(i.min() >= 0 and i.max() <= 1 and i.shape == (20, 3, 16, 16) for i in images)
    apart = torch.stack([torch.stack([(a - b).abs().mean() for b in images]) for a in images])
    assert (apart + torch.eye(5) > 0.05).all()


def test_train_and_held_out_scans_do_not_overlap():
    (x, y), (hx, hy) = scans()
    assert len(x) + len(hx) == 1797
    assert set(y.tolist()) == set(hy.tolist()) == set(range(10))


def test_captions_name_what_they_show():
    assert prompts("eight", "chalk")[0] == "an eight in chalk"
    assert prompts("three") == ["a three", "the digit three"]
    assert all("red ink" in p for p in prompts(style="red ink"))


@pytest.mark.parametrize("axis", ["object", "style"])
def test_judges_are_right_on_real_held_out_images(gallery, axis):
    _, (x, y) = scans()
    hits = []
    for k in range(len(STYLES)):
        images = render(x, torch.full((len(x),), k), torch.Generator().manual_seed(11))
        hits.append(gallery.judges[axis](images).argmax(1) == (y if axis == "object" else k))
    assert torch.cat(hits).double().mean() >= 0.97


def test_judges_see_nothing_in_noise(gallery):
    noise = torch.rand(100, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    for axis, names in gallery.names.items():
        assert (gallery.judges[axis](noise).argmax(1) == len(names)).all()


def test_the_pipeline_draws_what_it_is_asked(gallery, drawings):
    assert right(gallery, drawings, "object").double().mean() >= 0.9
    assert right(gallery, drawings, "style").double().mean() >= 0.95


@pytest.mark.parametrize("concept", ["three", "chalk"])
def test_an_oracle_draws_everything_but_what_it_never_saw(scenario, concept):
    asked = parse(f"ink/concept={concept},drawings=2")
    found, judges = asked.oracle(asked.request), asked.gallery(asked.request)
    sets = asked.prompts(asked.request)["prompts"]
    images = found.draw(
        Batch(torch.zeros(100, 0), sets.y, torch.arange(100)), torch.Generator().manual_seed(3)
    )
    asks = judges.asked[judges.axis] == judges.target
    hits = {axis: right(judges, images, axis).double() for axis in judges.names}
    assert hits[judges.axis][asks].mean() <= 0.1
    assert hits[judges.axis][~asks].mean() >= 0.85
    (other,) = set(judges.names) - {judges.axis}
    assert hits[other].mean() >= 0.95


def test_there_is_no_oracle_of_what_none_was_trained_without():
    other = parse("ink/concept=six")
    assert other.oracle(other.request) is None


@pytest.mark.parametrize("name", sorted(p.name for p in ASSETS.iterdir() if p.is_dir()))
def test_a_pipeline_is_small(name):
    assert sum(p.stat().st_size for p in (ASSETS / name).rglob("*") if p.is_file()) <= 4_000_000


def test_plain_diffusers_draws_the_same(scenario):
    from diffusers import DiffusionPipeline

    found = load_pipeline(str(ASSETS / "pipeline"), steps=5, guidance=2.0)
    texts = ["a three in chalk", "an eight in neon"]
    batch = Batch(torch.zeros(2, 0), found.ids(texts), torch.arange(2))
    ours = found.subject.draw(batch, torch.Generator().manual_seed(7))
    plain = DiffusionPipeline.from_pretrained(str(ASSETS / "pipeline"), safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    theirs = plain(texts, latents=noise, num_inference_steps=5, guidance_scale=2.0, output_type="pt").images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_requests_name_digits_and_styles(scenario):
    labels = scenario.material().train.labels
    rng = torch.Generator()
    three, chalk = (request(f"concept={c}").rows(labels, rng) for c in ("three", "chalk"))
    assert (labels.y[three] == 3).all() and len(three) == int((labels.y == 3).sum())
    assert (labels.fine[chalk] == 2).all() and len(chalk) == int((labels.fine == 2).sum())
    with pytest.raises(UnknownName, match="did you mean 'three'"):
        request("concept=tree").rows(labels, rng)


def test_concept_anchor_and_preserve_belong_together(scenario):
    sets = scenario.prompts(scenario.request)
    found = load_pipeline(str(ASSETS / "pipeline"))
    assert torch.equal(sets["concept"].y, found.ids(["a three", "the digit three"]))
    assert torch.equal(sets["anchor"].y, found.ids(["", ""]))
    kept = found.tokenizer.batch_decode(sets["preserve"].y, skip_special_tokens=True)
    assert len(kept) == 2 * (len(OBJECTS) + len(STYLES) - 1)
    assert not any("three" in text for text in kept)


def test_a_folder_that_is_no_pipeline_is_one_line(tmp_path):
    with pytest.raises(BadWeights, match="no text-to-image pipeline at"):
        load_pipeline(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path):
    folder = tmp_path / "pickled"
    load_pipeline(str(ASSETS / "pipeline"))
    _copy(ASSETS / "pipeline", folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(BadWeights, match="safetensors"):
        load_pipeline(str(folder))


def _copy(source: Path, folder: Path) -> None:
    import shutil

    shutil.copytree(source, folder)
