"""The mode of a command: training, or a test of a run in one way; and the suffix of the files that it writes.

train                          results.json, log.txt, logits_test.npz
test_only                      results_test.json, log_test.txt, logits_test.npz
test_only tte True             results_tte.json, ... (five crops), tte10 (ten), tte_draws5 (five random crops)
test_train                     results_train.json, train_tte, ...
test_only test_split val       results_val.json, val_tte, ...
a test of other images         results_test_NAME.json
a test in another way          results_test_interpolation_bilinear.json
"""

import dataclasses
import re
from typing import Any

# keys that a test may change
TESTED_OTHERWISE = ("resolution", "interpolation", "resize", "variant", "reducing_gap", "exif_orientation", "bit_depth")
_WAYS = "|".join(("crops", "expand", "draws", "seed", *TESTED_OTHERWISE))
# names of images that look like another suffix
_AMBIGUOUS = re.compile(rf"(tte\d*|draws\d+|fp16|bf16|fp32|({_WAYS})_\w+)(_|$)")


@dataclasses.dataclass(frozen=True)
class Mode:
    """trains: False for a test of an earlier run (test_only, test_train). split: the tested images, train, test or val.

    crops: of a test image with test-time ensembling (5 or 10), else 1; draws: number of random crops that replace them.
    images: name of the tested images if they are not those of the training run. otherwise: the options that differ from
    the training's, as KEY_VALUE.
    """

    trains: bool = True
    split: str = "test"
    crops: int = 1
    draws: int | None = None
    images: str | None = None
    otherwise: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """train, test_only or test_train."""
        return "train" if self.trains else "test_train" if self.split == "train" else "test_only"

    @property
    def suffix(self) -> str:
        """The suffix of logits, and of a test's results and log: the images and the way of testing."""
        crops = f"tte_draws{self.draws}" if self.draws else {1: "", 5: "tte"}.get(self.crops, f"tte{self.crops}")
        suffix = "_".join(filter(None, ("" if self.split == "test" else self.split, crops))) or "test"
        if self.images and not self.trains:
            name = re.sub(r"[^\w.+@=-]+", "-", self.images)[:100]
            suffix += f"_list_{name}" if _AMBIGUOUS.match(name) else f"_{name}"
        return "_".join([suffix, *self.otherwise])

    @property
    def file_suffix(self) -> str:
        """The suffix of results and log, which is empty for a training run."""
        return "" if self.trains else f"_{self.suffix}"


def build_mode(cfg: Any) -> Mode:
    """The mode of a command. A test_name names its images; other names follow from the run that it tests."""
    return Mode(
        trains=not (cfg.test_only or cfg.test_train),
        split="train" if cfg.test_train else cfg.test_split,
        crops=cfg.tte_crops if cfg.tte else 1,
        draws=cfg.tte_draws if cfg.tte else None,
        images=cfg.test_name,
    )
