"""Image classifiers of transformers, by local folder or hub name, and the images they want."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from unlearn.errors import BadWeights
from unlearn.ops import hub
from unlearn.ops.pictures import BILINEAR, Frame
from unlearn.sources import Pixels


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A loaded image classifier.

    Attributes:
        module: The model; its output has `logits`.
        classes: Names of the classes, by id.
        frame: Size and colours of its images.
        pixels: Their normalisation.
    """

    module: nn.Module
    classes: tuple[str, ...]
    frame: Frame
    pixels: Pixels

    def untrained(self) -> nn.Module:
        """The same architecture with newly drawn weights, from its configuration."""
        from transformers import AutoModelForImageClassification

        config: Any = self.module.config
        made: nn.Module = AutoModelForImageClassification.from_config(config)
        return made


def load_classifier(where: str) -> Pretrained:
    """Reads an image classifier of transformers.

    Args:
        where: Folder that `save_pretrained` wrote, or a hub name; of an adapter of PEFT, whose weights are then merged
            into those of its base; or a `config.json`, of which the weights are newly drawn.

    Raises:
        BadWeights: If there is none, or it cannot be read.
    """
    hub.quiet()
    try:
        module = _module(where)
    except Exception as err:  # transformers raises whatever its readers raise
        said = (str(err).splitlines() or [type(err).__name__])[0]
        raise BadWeights(
            f"no image classifier at {where!r}: {said}; give FILE.py:FUNCTION, a folder written by save_pretrained, a hub name, or a config.json with weights=FILE"
        ) from err
    config: Any = module.config
    names = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    beside = str(Path(where).parent) if is_configuration(where) else _origin(module)
    frame, pixels = image_input(config, _processor(beside))
    return Pretrained(module, names, frame, pixels)


def is_configuration(where: str) -> bool:
    """Whether it is a file that says how a model is built, and holds no weights."""
    return where.endswith(".json")


def _module(where: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.utils import find_adapter_config_file

    if is_configuration(where):
        built: nn.Module = AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(where))
        return built.eval()
    adapter = find_adapter_config_file(where)
    if adapter is None:
        found: nn.Module = AutoModelForImageClassification.from_pretrained(where)
        return found
    from peft import PeftModel

    base = json.loads(Path(adapter).read_text())["base_model_name_or_path"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, at what PEFT asks it
        adapted: Any = PeftModel.from_pretrained(AutoModelForImageClassification.from_pretrained(base), where)
    merged: nn.Module = adapted.merge_and_unload()
    return merged


def _origin(module: nn.Module) -> str:
    """Where transformers notes that it loaded a module from."""
    noted: Any = module
    return str(noted.name_or_path)


def image_input(config: Any, processor: dict[str, Any]) -> tuple[Frame, Pixels]:
    """Size, colours and normalisation, from the model's configuration and its `preprocessor_config.json`.

    Args:
        config: Of the model.
        processor: The JSON, or nothing: then images are only scaled to 0..1 and to the model's size.
    """
    channels = int(getattr(config, "num_channels", 3))
    size = _pair(processor.get("crop_size") if processor.get("do_center_crop") else None)
    asked = processor.get("size", getattr(config, "image_size", None))
    shortest = 0
    if isinstance(asked, dict) and "shortest_edge" in asked:
        shortest = int(asked["shortest_edge"])
        size = size or (shortest, shortest)
        if "crop_pct" in processor:  # ConvNeXT's rule: small images are cut, large ones squeezed
            shortest = int(shortest / processor["crop_pct"]) if shortest < 384 else 0
    elif size is None:
        size = _pair(asked)
    frame = Frame(size, channels, shortest, int(processor.get("resample", BILINEAR)))
    if not processor.get("do_normalize", bool(processor)):
        return frame, Pixels((0.0,) * channels, (1.0,) * channels)
    mean, std = (processor.get(k, [0.5] * channels) for k in ("image_mean", "image_std"))
    return frame, Pixels(tuple(mean), tuple(std))


def _pair(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _processor(where: str) -> dict[str, Any]:
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        found: dict[str, Any] = BaseImageProcessor.get_image_processor_dict(where)[0]
    except OSError:
        return {}
    return found
