"""Reads the tensors of a weight file, and nothing else, so that no file can run code."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from utils.archives import read_archive, reason
from utils.errors import ModelError
from utils.formats import SAFETENSORS, FormatError, recognise
from utils.text import listed, shortened

# keys under which training programs save a state dict, beside the optimizer's and others
SECTIONS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "backbone", "encoder",
    "teacher", "student", "ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "model_ema_state_dict",
    "params", "params_ema", "weights",
)  # fmt: skip
# the sections that are preferred if a file has several: "state_dict", then the teacher of self-distillation (DINO,
# iBOT), which its authors evaluate
PREFERRED = {"state_dict": None, "teacher": {"teacher", "student"}}  # section: all that the file may have


class Tensors(NamedTuple):
    """The tensors of a weight file by name; section: the key they are under, "" for none; others: further ones."""

    tensors: dict[str, Tensor]
    section: str = ""
    others: tuple[str, ...] = ()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a weight file by name; see `read_section`."""
    return read_section(path).tensors


def read_section(path: Path) -> Tensors:
    """The tensors of a weight file: safetensors, a state dict of torch.save (its own or in a section), TorchScript.

    The content decides, not the file's name. Raises ModelError for anything else, and for a file that would run code
    when loaded.
    """
    try:
        content = _read_safetensors(path) if recognise(path) == SAFETENSORS else read_archive(path)
    except FormatError as error:
        raise ModelError(f"{path} {error}", kind="unreadable_weights", path=path) from error
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); correct its permissions, or copy it"
        raise ModelError(message, kind="unreadable_weights", path=path) from error
    if not isinstance(content, dict):
        message = f"{path} contains {type(content).__name__}, not a state dict (tensors by name)"
        raise ModelError(message, kind="not_a_state_dict", path=path)
    if _is_state_dict(content):
        return Tensors(content)
    return _choose_section(content, path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError:
        raise
    except Exception as error:  # safetensors, torch and Python raise errors of many types
        raise FormatError(f"is damaged ({reason(error)}); copy or download it again") from error


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _choose_section(content: dict[Any, Any], path: Path) -> Tensors:
    """The state dict under one of SECTIONS. Raises ModelError if there is none, or several without a preferred one."""
    found = [name for name in SECTIONS if content.get(name) and _is_state_dict(content[name])]
    for section, all_of in PREFERRED.items():
        if section in found and (all_of is None or set(found) <= all_of):
            return Tensors(content[section], section, tuple(name for name in found if name != section))
    if len(found) > 1:
        names = " and ".join(f'"{name}"' for name in found)
        message = (
            f"{path} has several state dicts, {names}; choose one: "
            f'torch.save(torch.load(FILE)["{found[0]}"], NEW), and weights NEW'
        )
        raise ModelError(message, kind="several_state_dicts", path=path)
    if not found:
        section = next((name for name in SECTIONS if name in content), "")
        raise _not_a_state_dict(content.get(section, content), path, f' under "{section}"' if section else "")
    return Tensors(content[found[0]], found[0])


def _not_a_state_dict(content: Any, path: Path, where: str = "") -> ModelError:
    """The error for content that is not all tensors by name, with its other entries."""
    found = type(content).__name__
    if isinstance(content, dict):
        others = {name: value for name, value in content.items() if not isinstance(value, Tensor)} or content
        found = listed(f"{shortened(str(name), 60)} ({type(value).__name__})" for name, value in others.items())
    message = (
        f"{path} contains {found or 'nothing'}{where}, not a state dict (tensors by name); "
        "these are read at the top, or under a usual key such as state_dict, model or teacher"
    )
    return ModelError(message, kind="not_a_state_dict", path=path)
