"""Checkpoints: trainable parameters in a safetensors file, written atomically, loaded strictly, without running code.

A checkpoint has the trainable parameters of a complete run, and the running statistics that training updated; a
progress file has the same, the optimizer's state and the step reached. Both have a SHA-256 of all their content, which
every reader verifies, and only finite values. Files of LIFT+ itself, {"tuner": tensors}, and of LIFT, {"tuner":
tensors, "head": tensors}, are only read. utils/run/directory.py has the file names.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from utils.archives import read_archive
from utils.config.schema import UNRECORDED
from utils.errors import CheckpointError, amended
from utils.files import atomic_write
from utils.formats import FormatError
from utils.run.results import same_images

MOVES_STATISTICS = "moves_statistics"  # attribute of a module whose buffers are updated in training, and saved
UPSTREAM = ".tar"  # suffix of LIFT's and LIFT+'s own files
ENTRIES = "aft entries"
ARCHITECTURE = "architecture"
INIT = "init"  # the checksum of the run that init_from names
SOMETIMES = (ENTRIES, ARCHITECTURE, INIT)  # keys of an identity that many models lack; None then
# settings whose values are hashes
FINGERPRINTS = {"weights", "classes", "training images", "validation images", "prompt file", "start", INIT, ENTRIES}
IMAGES = ("training images", "validation images")  # settings whose values are fingerprints of image lists
OPTIMIZER = "optimizer"  # prefix of the optimizer's state in a progress file
EXTRA = "extra"  # prefix of other tensors there that are not the model's
FORMAT = 2  # version of the file format; since 2 a file has a checksum
FORMER_MOMENTUM = re.compile("^momentum:")  # prefix of momentum in progress files of earlier versions


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters with requires_grad, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters, and the buffers of every module whose statistics training updates, by name."""
    moving = {
        f"{name}.{buffer}": value
        for name, module in model.named_modules()
        if getattr(module, MOVES_STATISTICS, False)
        for buffer, value in module.named_buffers(recurse=False)
    }
    return trainable_tensors(model) | moving


# ---- files ----


def save(path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> str:
    """Writes tensors and `about` (JSON) to `path` atomically: the same bytes for the same content.

    Returns the checksum in the file. Raises a FloatingPointError, and writes nothing, if a value is not finite.
    """
    from safetensors.torch import save as serialize

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if (name := find_not_finite(tensors)) is not None:
        raise FloatingPointError(f"{name} has values that are not finite, so {path} was not written")
    about = about | {"format": FORMAT}
    checksum = _checksum(tensors, about)
    # one entry, as safetensors writes several in arbitrary order
    with atomic_write(path) as file:
        file.write(serialize(tensors, metadata={"about": json.dumps(about | {"sha256": checksum}, sort_keys=True)}))
    return checksum


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the `about` of a file written by `save`. Raises CheckpointError, also for a wrong checksum."""
    tensors, about, _ = _read(path)
    return tensors, about


def describe(path: Path) -> dict[str, Any]:
    """The `about` of a file written by `save`, and its checksum as "sha256"; {} for LIFT's and LIFT+'s files.

    Raises CheckpointError, also for a wrong checksum.
    """
    if path.suffix == UPSTREAM:
        return {}
    _, about, checksum = _read(path)
    return about | {"sha256": checksum}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Tensors, `about` and checksum, which is computed for files of earlier versions, as they have none."""
    from safetensors import SafetensorError, safe_open

    require(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        about = dict(json.loads(metadata["about"]))
        recorded = about.pop("sha256", None)
        checksum = _checksum(tensors, about)
        if (recorded is not None or "format" in about) and recorded != checksum:
            raise ValueError("its content is not the one that was written")
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        reason = f" ({error.strerror})" if isinstance(error, OSError) else ""
        message = (
            f"{path} is damaged or not a checkpoint of this program{reason}; restore it from a copy, or delete it and "
            "train again"
        )
        raise CheckpointError(message, kind="damaged_checkpoint", path=path) from error
    return tensors, about, checksum


def _checksum(tensors: Mapping[str, Tensor], about: dict[str, Any]) -> str:
    """SHA-256 (hex) of `about` and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a value that is NaN or infinite; None if there is none."""
    return next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)


def require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises a CheckpointError if a value is not finite; earlier versions wrote such files."""
    if (name := find_not_finite(tensors)) is not None:
        message = (
            f"{path} has values that are not finite (the first in {name}), as its training diverged; delete it and "
            "train with a smaller lr or prec_train fp32"
        )
        raise CheckpointError(message, kind="not_finite", path=path)


def require(path: Path) -> None:
    """Raises a CheckpointError if there is no file at `path`."""
    if not path.is_file():
        message = (
            f"no checkpoint at {path}; train first (the same command without test_only), or name a run: model_dir DIR"
        )
        raise CheckpointError(message, kind="no_checkpoint", path=path)


def load_upstream(path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint of LIFT+ ("tuner") or LIFT ("tuner", "head"), by name. Raises CheckpointError."""
    try:
        content = read_archive(path)
    except FormatError as error:
        raise CheckpointError(f"{path} {error}", kind="damaged_upstream_checkpoint", path=path) from error
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); correct its permissions, or copy it"
        raise CheckpointError(message, kind="damaged_upstream_checkpoint", path=path) from error
    if not isinstance(content, dict) or "tuner" not in content:
        reason = 'it has no "tuner"'
    else:
        sections = {section: content[section] for section in ("tuner", "head") if section in content}
        wrong = [section for section, tensors in sections.items() if not _is_state_dict(tensors)]
        if not wrong:
            return sections
        reason = f'its "{wrong[0]}" is not a dict of tensors by name'
    message = (
        f'{path} is not a checkpoint of LIFT+, {{"tuner": tensors}}, or LIFT, '
        f'{{"tuner": tensors, "head": tensors}} ({reason}); pass the path of one'
    )
    raise CheckpointError(message, kind="damaged_upstream_checkpoint", path=path)


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


# ---- loading into a model ----


def restore(
    model: nn.Module,
    path: Path,
    identity: dict[str, Any],
    convert: Callable[[nn.Module, dict[str, dict[str, Tensor]]], tuple[dict[str, Tensor], dict[str, Tensor]]],
    absent: dict[str, Any] | None = None,
) -> None:
    """Loads the checkpoint at `path` into the saved tensors of `model`; see `check_identity` and `copy_into`.

    convert: (model, content of a file of LIFT+ or LIFT) -> (tensors of the model, tensors of the file), both under
    the same names. These files do not record their backbone and classes.
    """
    if path.suffix == UPSTREAM:
        targets, tensors = convert(model, load_upstream(path))
        require_finite(tensors, path)
        copy_into(targets, tensors, path)
        return
    tensors, about = load(path)
    require_finite(tensors, path)
    if identity.get(ENTRIES) != about.get(ENTRIES):  # before the shapes, which may differ for this reason
        check_identity(about, {key: identity.get(key) for key in SOMETIMES}, path)
    copy_into(saved_tensors(model), tensors, path)
    check_identity(about, identity, path, absent)


def copy_into(targets: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    """Copies tensors by name. Raises a CheckpointError with the first names or shapes that differ."""
    shapes = [
        f"{name} {list(tensors[name].shape)} where {list(target.shape)} is needed"
        for name, target in targets.items()
        if name in tensors and tensors[name].shape != target.shape
    ]
    differences = (
        ("it lacks", sorted(targets.keys() - tensors.keys())),
        ("it has besides", sorted(tensors.keys() - targets.keys())),
        ("it has", shapes),
    )
    problems = [
        f"{verb} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for verb, names in differences
        if names
    ]
    if problems:
        message = (
            f"{path} was trained with another method, data set or backbone: {'; '.join(problems)}. "
            "Test it with the -d, -b, -m and options that it was trained with"
        )
        raise CheckpointError(message, kind="other_tensors", path=path)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])


def check_identity(
    about: dict[str, Any], identity: dict[str, Any], path: Path, absent: dict[str, Any] | None = None
) -> None:
    """Raises a CheckpointError if the file records another value for any key of `identity`; its `key` is the first.

    A key of SOMETIMES that only the file has is a difference, too. absent: values of keys that the file lacks; a key in
    neither has its value in UNRECORDED, as the file is older than the key.
    """
    identity = identity | {key: None for key in SOMETIMES if key in about and key not in identity}
    meant = UNRECORDED | (absent or {})
    recorded = {key: about.get(key, meant.get(key)) for key in identity}
    differing = [
        key
        for key, value in identity.items()
        if recorded[key] != value and not (key in IMAGES and same_images(recorded[key], value))
    ]
    if differing:
        differences = [
            f"other {key}" if key in FINGERPRINTS else f"{key} {recorded[key]}, now {identity[key]}"
            for key in differing[:3]
        ]
        message = f"{path} belongs to another run or model: {', '.join(differences)}"
        raise CheckpointError(message, kind="other_identity", path=path, key=differing[0])


# ---- progress of an interrupted run ----


def save_progress(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    about: dict[str, Any],
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the state from which an interrupted run resumes bit for bit. Raises FloatingPointError: see `save`.

    Tensors of the optimizer's state are saved as "optimizer:KEY:PARAMETER", its other values in `about`; tensors of
    `extra` as "extra:NAME".
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for name, parameter in trainable_tensors(model).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            entry = f"{OPTIMIZER}:{key}:{name}"
            if isinstance(value, Tensor):
                tensors[entry] = value
            elif value is not None:
                values[entry] = value
    tensors |= {f"{EXTRA}:{name}": value for name, value in (extra or {}).items()}
    save(path, saved_tensors(model) | tensors, about | ({"optimizer": values} if values else {}))


class Progress(NamedTuple):
    """The content of a progress file."""

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def extra(self) -> dict[str, Tensor]:
        """The `extra` of `save_progress`; {} in files of earlier versions."""
        return {name.partition(":")[2]: value for name, value in self.tensors.items() if name.startswith(f"{EXTRA}:")}

    def load_into(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        identity: dict[str, Any],
        absent: dict[str, Any] | None = None,
    ) -> None:
        """Loads the state of `save_progress`. Raises CheckpointError, also for another run's file."""
        with amended(after=". Delete that file to start from the beginning, or choose another output_dir"):
            check_identity(self.about["identity"], identity, self.path, absent)
        tensors = {name: value for name, value in self.tensors.items() if not name.startswith(f"{EXTRA}:")}
        saved = tensors | self.about.get("optimizer", {})
        entries = {FORMER_MOMENTUM.sub(f"{OPTIMIZER}:momentum_buffer:", name): value for name, value in saved.items()}

        # the state of each trainable parameter
        state: dict[str, dict[str, Any]] = {name: {} for name in trainable_tensors(model)}
        for entry in [entry for entry in entries if entry.startswith(f"{OPTIMIZER}:")]:
            _, key, name = entry.split(":", 2)
            if name in state:
                state[name][key] = entries.pop(entry)
        copy_into(saved_tensors(model), entries, self.path)

        # by the number of the parameter, as load_state_dict expects it; it moves each value to its device
        of_parameter = {parameter: state[name] for name, parameter in trainable_tensors(model).items()}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        numbered = {number: of_parameter[parameter] for number, parameter in enumerate(parameters)}
        content = {"state": {number: values for number, values in numbered.items() if values}}
        optimizer.load_state_dict(optimizer.state_dict() | content)


def read_progress(path: Path) -> Progress:
    """The content of a progress file. Raises CheckpointError."""
    tensors, about = load(path)
    require_finite(tensors, path)
    return Progress(path, tensors, about)
