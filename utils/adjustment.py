"""The adjustment of a run's logits after training: scripts/adjust.py writes it, prediction and export apply it.

    adjusted = scale * z + bias (+ z_zs)        probabilities = softmax(adjusted / temperature)

z are the logits of the run's model, z_zs those of the zero-shot model of its backbone. utils/posthoc.py computes the
numbers. The adjustment of a run without adjustment.json is the identity.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import CheckpointError
from utils.files import read_json, write_text

BYTES = 20_000_000  # of adjustment.json; one of 10,000 classes has 0.5 MB
FORMAT = 1
LARGEST = 1e38  # numbers are applied in float32
REMEDY = "fit it again with scripts/adjust.py, or remove it with scripts/adjust.py RUN --reset"
CHECKPOINT = "checkpoint"  # key of `about`: the checksum of the checkpoint whose logits are adjusted


@dataclasses.dataclass(frozen=True, eq=False)
class Adjustment:
    """Numbers that adjust logits. scale, bias: float64 [C], None = ones or zeros. zero_shot: whether z_zs is added.

    about: how it was chosen, on which images, for which checkpoint.
    """

    temperature: float = 1.0
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None
    zero_shot: bool = False
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_identity(self) -> bool:
        """Whether the adjustment changes nothing."""
        return self.temperature == 1 and self.scale is None and self.bias is None and not self.zero_shot

    def apply(self, logits: np.ndarray, zero_shot_logits: np.ndarray | None = None) -> np.ndarray:
        """The adjusted logits, float32 [n, C], before the division by the temperature.

        logits, and zero_shot_logits of the zero-shot model: float32 [n, C]; the latter are required if `zero_shot`.
        """
        adjusted = logits if self.scale is None else logits * self.scale.astype(np.float32)
        adjusted = adjusted if self.bias is None else adjusted + self.bias.astype(np.float32)
        if not self.zero_shot:
            return adjusted
        if zero_shot_logits is None:
            raise ValueError("this adjustment adds the logits of the zero-shot model; pass zero_shot_logits")
        return adjusted + zero_shot_logits

    def scaled(self, logits: np.ndarray, zero_shot_logits: np.ndarray | None = None) -> np.ndarray:
        """The adjusted logits over the temperature, float32 [n, C]; see `apply`."""
        adjusted = self.apply(logits, zero_shot_logits)
        return adjusted if self.temperature == 1 else adjusted / np.float32(self.temperature)

    def probabilities(self, logits: np.ndarray, zero_shot_logits: np.ndarray | None = None) -> np.ndarray:
        """The probabilities, float32 [n, C], of `logits`; see `apply`."""
        scaled = self.scaled(logits, zero_shot_logits)
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)


def write_adjustment(path: Path, adjustment: Adjustment) -> None:
    """Writes adjustment.json atomically. Numbers are read back bit for bit."""
    content = {field.name: getattr(adjustment, field.name) for field in dataclasses.fields(adjustment)}
    content |= {name: None if content[name] is None else content[name].tolist() for name in ("scale", "bias")}
    write_text(path, json.dumps({"format": FORMAT} | content, indent=1) + "\n")


def read_adjustment(path: Path, num_classes: int, checkpoint: str | None = None) -> Adjustment:
    """The adjustment in a file; the identity if there is none.

    checkpoint: checksum of the run's checkpoint; None = not compared. Raises CheckpointError if the file is damaged,
    has another number of classes, or was fitted to another checkpoint.
    """
    try:
        content = read_json(path, BYTES)
    except FileNotFoundError:
        return Adjustment()
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); correct its permissions, or remove it"
        raise CheckpointError(message, kind="unreadable_adjustment", path=path) from error
    except ValueError as error:
        raise _damaged(path, "it is not JSON") from error
    try:
        if _typed(content, dict)["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        found = Adjustment(
            temperature=_temperature(content["temperature"]),
            scale=_vector(content["scale"], num_classes),
            bias=_vector(content["bias"], num_classes),
            zero_shot=_typed(content["zero_shot"], bool),
            about=_typed(content["about"], dict),
        )
    except (KeyError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise _damaged(path, reason) from error
    fitted = found.about.get(CHECKPOINT)
    if checkpoint is not None and fitted is not None and fitted != checkpoint:
        message = f"{path} was fitted to another checkpoint than the one in its folder; {REMEDY}"
        raise CheckpointError(message, kind="stale_adjustment", path=path)
    return found


def _damaged(path: Path, reason: str) -> CheckpointError:
    message = f"{path} is damaged or not an adjustment of this program ({reason}); {REMEDY}"
    return CheckpointError(message, kind="damaged_adjustment", path=path)


def _temperature(value: Any) -> float:
    """A number above 0, also in float32. Raises ValueError."""
    if not _is_number(value) or not 0 < value < LARGEST or np.float32(value) == 0:
        raise ValueError("its temperature is not a number above 0")
    return float(value)


def _vector(value: Any, num_classes: int) -> np.ndarray | None:
    """A list of finite numbers, one per class, as float64 [C]; None for None. Raises ValueError."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != num_classes:
        found = f"{len(value):,}" if isinstance(value, list) else "none"
        raise ValueError(f"{num_classes:,} numbers are needed, one per class, and it has {found}")
    if not all(_is_number(number) and abs(number) < LARGEST for number in value):
        raise ValueError("its numbers are not all finite")
    return np.array(value, np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"it has {type(value).__name__} where {kind.__name__} is needed")
    return value
