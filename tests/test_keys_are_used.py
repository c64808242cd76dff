"""Every key of the schema is read by the program, according to a record of the keys read by a few short runs."""

import numpy as np
import pytest
import torch
from helpers import train
from PIL import Image

import trainer
from models.losses import LOSSES, build_loss
from utils.config import Config, completed, load_config
from utils.config.schema import KEYS, PEFT, TEXT_PEFT

pytestmark = pytest.mark.slow


class Recording(Config):
    """A configuration that records the keys that are read from it, by their full names."""

    def __init__(self, cfg, read, prefix=""):
        super().__init__()
        self.__dict__.update(read=read, prefix=prefix)
        for name, value in cfg.items():
            dict.__setitem__(self, name, Recording(value, read, f"{name}.") if isinstance(value, Config) else value)

    def __getitem__(self, name):
        self.__dict__["read"].add(self.__dict__["prefix"] + name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        if name not in self:
            return default
        return self[name]


def switches(tower, methods):
    """KEY True for every method of a tower."""
    return [text for name, key in methods.items() if key.kind == "bool" for text in (f"{tower}.{name}", "True")]


def test_every_key_is_read(config, few_images, random_clip, tmp_path, monkeypatch):
    read = set()
    monkeypatch.setattr(trainer, "completed", lambda cfg, values: Recording(completed(cfg, values), read))
    one_epoch = ("num_epochs", 1, "save_logits", "True")
    every_method = (*one_epoch, *switches("v", PEFT), "output_dir", "run")
    for cfg in (
        config(*every_method),
        config(*every_method, "test_only", "True", "tte", "True", "tte_draws", 1),
        config(*one_epoch, method="zs"),
        config(*one_epoch, *switches("l", TEXT_PEFT), "proj_tuning", "True", method="clip_adapter"),
        config(*one_epoch, "val_fraction", 0.2, "val_every", 1, "keep", "best", method="coop"),
    ):
        train(Recording(cfg, read))
    for loss in LOSSES:
        build_loss(Recording(config("loss_type", loss), read), torch.tensor([3, 2]))
    pictures = tmp_path / "pictures"
    for split in ("train", "test"):
        for name in ("a", "b"):
            (pictures / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(pictures / split / name / "1.png")
    options = (*one_epoch, "root", pictures, "weights", random_clip, "classifier_init", "class_mean", "num_workers", 0)
    train(Recording(load_config("folder", "clip_vit", "lp", [str(text) for text in options]), read))
    assert read >= KEYS.keys()
