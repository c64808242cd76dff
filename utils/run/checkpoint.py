"""Checkpoints: the trained tensors in a safetensors file, written atomically, loaded strictly. Only tensors are read.

checkpoint.safetensors   the trained tensors of a finished run, and statistics that moved with them
progress.safetensors     while a run lasts, after each epoch: the same, their momentum, and how far it is
checkpoint.pth.tar       of LIFT+ itself, {"tuner": tensors}, or of LIFT, {"tuner": tensors, "head": tensors}; read only
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.config.schema import KEYS
from utils.errors import CheckpointError
from utils.files import whole
from utils.run.results import same_images

CHECKPOINT = "checkpoint.safetensors"
PROGRESS = "progress.safetensors"
UPSTREAM = "checkpoint.pth.tar"
ENTRIES = "aft entries"
FINGERPRINTS = {"weights", "classes", "training images", ENTRIES}  # settings whose values are hashes
DEFAULTS = {name: key.default for name, key in KEYS.items()}
MOMENTUM = "momentum:"  # before a tensor's name, its momentum


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, by name. requires_grad is the only mark."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, and the buffers of every module whose statistics move in training, by name."""
    moving = {
        f"{name}.{buffer}": value
        for name, module in model.named_modules()
        if getattr(module, "moves_statistics", False)
        for buffer, value in module.named_buffers(recurse=False)
    }
    return trained_tensors(model) | moving


def save(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes tensors and `about` (JSON) to `path`: whole or not at all, and the same bytes for the same content."""
    from safetensors.torch import save as serialize

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole(path) as file:
        file.write(serialize(tensors, metadata={"about": json.dumps(about, sort_keys=True)}))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file of ours and what it says of itself. Raises CheckpointError."""
    with _opened(path) as (file, about):
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 (no mapping)


def describe(path: Path) -> dict[str, Any]:
    """What a file of ours says of itself, its tensors unread; {} for one of LIFT or LIFT+. Raises CheckpointError."""
    if path.name == UPSTREAM:
        return {}
    with _opened(path) as (_, about):
        return about


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A file of ours, and what it says of itself. Raises CheckpointError, while its tensors are read, too."""
    from safetensors import SafetensorError, safe_open

    require(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file, dict(json.loads((file.metadata() or {})["about"]))
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint of ours ({error}); train again") from error


def find(run_dir: Path) -> Path:
    """The checkpoint in `run_dir`: ours, else one of LIFT+ or LIFT. Raises CheckpointError if there is none."""
    theirs = run_dir / UPSTREAM
    path = theirs if theirs.is_file() and not (run_dir / CHECKPOINT).is_file() else run_dir / CHECKPOINT
    require(path)
    return path


def require(path: Path) -> None:
    """Raises a CheckpointError if there is no file at `path`."""
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}; train first (the same command without test_only), or name a run: model_dir DIR"
        )


def load_upstream(path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint of LIFT+ ("tuner") or LIFT ("tuner", "head"), by name. Raises CheckpointError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        parts = {part: content[part] for part in ("tuner", "head") if part == "tuner" or part in content}
        wrong = [part for part, tensors in parts.items() if not _is_state_dict(tensors)]
        if not wrong:
            return {part: dict(tensors) for part, tensors in parts.items()}
        reason = f'its "{wrong[0]}" is not a dict of tensors by name'
    except Exception as error:  # the readers of foreign bytes raise whatever they stumble over
        reason = f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]
    raise CheckpointError(
        f'{path} is damaged, or no checkpoint of LIFT+, {{"tuner": tensors}}, or LIFT, '
        f'{{"tuner": tensors, "head": tensors}} ({reason})'
    )


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def restore(
    model: nn.Module,
    path: Path,
    identity: dict[str, Any],
    convert: Callable[[nn.Module, dict[str, dict[str, Tensor]]], tuple[dict[str, Tensor], dict[str, Tensor]]],
    absent: dict[str, Any] | None = None,
) -> None:
    """Loads the checkpoint at `path` into the saved tensors of `model`; see `check_identity` and `copy_into`.

    convert: (model, content of a file of LIFT+ or LIFT) -> (tensors of the model, tensors of the file), both under
    the same names; these files do not say which backbone and classes they belong to.
    """
    if path.name == UPSTREAM:
        copy_into(*convert(model, load_upstream(path)), path)
        return
    tensors, about = load(path)
    if identity.get(ENTRIES) != about.get(ENTRIES):  # before their numbers, which may differ for this very reason
        check_identity(about, {ENTRIES: identity.get(ENTRIES)}, path)
    copy_into(saved_tensors(model), tensors, path)
    check_identity(about, identity, path, absent)


def copy_into(targets: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    """Copies tensors by name. Raises a CheckpointError with the first names or shapes that differ."""
    missing, unexpected = sorted(targets.keys() - tensors.keys()), sorted(tensors.keys() - targets.keys())
    shapes = [
        f"{name} {list(tensors[name].shape)} where {list(target.shape)} is needed"
        for name, target in targets.items()
        if name in tensors and tensors[name].shape != target.shape
    ]
    problems = [
        f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for what, names in (("it lacks", missing), ("it has besides", unexpected), ("it has", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{path} was trained with another method, data set or backbone: {'; '.join(problems)}. "
            "Test it with the -d, -b, -m and options that it was trained with"
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])


def check_identity(
    about: dict[str, Any], identity: dict[str, Any], path: Path, absent: dict[str, Any] | None = None
) -> None:
    """Raises a CheckpointError if the file records another value for any key of `identity`.

    absent: what a file without a key means; where that does not say, the key's default, as the file is older than it.
    """
    meant = DEFAULTS | (absent or {})
    recorded = {key: about.get(key, meant.get(key)) for key in identity}
    differing = [
        f"other {key}" if key in FINGERPRINTS else f"{key} {recorded[key]}, now {value}"
        for key, value in identity.items()
        if recorded[key] != value and not (key == "training images" and same_images(recorded[key], value))
    ]
    if differing:
        raise CheckpointError(f"{path} belongs to something else: {', '.join(differing[:3])}")


def require_same_run(
    run_dir: Path, settings: dict[str, Any], test_images: str, absent: dict[str, Any] | None = None
) -> None:
    """Raises a CheckpointError if `run_dir` holds an unfinished run, or one of other settings or test images.

    test_images: their list's fingerprint; absent: see `check_identity`.
    """
    results, progress = run_dir / "results.json", run_dir / PROGRESS
    try:
        if progress.exists():
            raise CheckpointError(f"{progress} belongs to a run that is not finished")
        if results.exists():
            content = json.loads(results.read_text(encoding="utf-8"))
            check_identity(content["settings"], settings, results, absent)
            if not same_images(content["data"]["fingerprint"]["test"], test_images):
                raise CheckpointError(f"{results} is of other test images; test_only True tests that run on these")
    except CheckpointError as error:
        raise CheckpointError(f"{error}. Delete that run to replace it, or choose another output_dir") from error
    except (KeyError, TypeError, ValueError):  # no results of ours: nothing to protect
        return


def save_progress(path: Path, model: nn.Module, optimizer: torch.optim.SGD, about: dict[str, Any]) -> None:
    """Writes what a killed run needs to go on from here, bit by bit the same."""
    trained = trained_tensors(model)
    state = {name: optimizer.state[tensor].get("momentum_buffer") for name, tensor in trained.items()}
    momentum = {MOMENTUM + name: value for name, value in state.items() if value is not None}
    save(path, saved_tensors(model) | momentum, about)


def load_progress(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.SGD,
    identity: dict[str, Any],
    absent: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Continues from `path`; returns what was saved as `about`. Raises CheckpointError if it is of another run."""
    tensors, about = load(path)
    try:
        check_identity(about["identity"], identity, path, absent)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. Delete that file to start anew, or choose another output_dir") from error
    for name, target in trained_tensors(model).items():
        if MOMENTUM + name in tensors:
            optimizer.state[target]["momentum_buffer"] = tensors.pop(MOMENTUM + name).to(target.device)
    copy_into(saved_tensors(model), tensors, path)
    return about
