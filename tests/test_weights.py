"""Weights that are read: nothing runs, nothing half is taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from unlearn.errors import BadWeights
from unlearn.ops.weights import load_into, read_weights
from unlearn.patch import save_tensors


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
