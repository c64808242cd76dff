"""Loads the weights of the backbones, strictly: sizes are read from the tensors, and every tensor must fit."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.backbones import BACKBONES, FAMILIES
from models.backbones.backbone import Backbone, BackboneConfig
from models.backbones.vit import resample_positions
from models.weights.architecture import complete, require_family
from models.weights.checksums import listed as listed_sum
from models.weights.descriptions import (
    OPENAI_SHA256,
    Description,
    describe,
    describe_both,
)
from models.weights.find import ASSETS, SCHEMES, find_weights
from models.weights.naming import convert_state_dict
from models.weights.read import read_section
from models.weights.sizes import grid_side, read_sizes
from models.weights.tokenizer_files import build_tokenizer
from utils.errors import ModelError
from utils.text import listed, shortened


class Weights(NamedTuple):
    """The file that a backbone was loaded from."""

    path: Path
    name: str  # its address, or the file's name
    sha256: str
    published: bool  # whether these are the weights that are published under the backbone's name
    notes: tuple[str, ...] = ()  # for the log


def load_backbone(
    name: str,
    weights: str | None = None,
    given: Description | None = None,
    resolution: int | None = None,
    texts: bool = True,
) -> tuple[Backbone, Weights]:
    """The backbone `name` with its published weights, or those of `weights`, in float32; and the file.

    name: of BACKBONES or FAMILIES, or an address (timm:MODEL.TAG, open_clip:MODEL/TAG, hf-hub:OWNER/NAME). weights: a
    local file, or another address. The sizes are read from the tensors, and must be those of `name`, unless that is one
    of FAMILIES. given: has precedence over other descriptions of the weights, see models/weights/descriptions.py.
    resolution: of the images, pixels; learnt positions are resampled for it. None = the weights' own, or 224 if that
    is DINOv2's 518. texts: False leaves out the text tower, for a model that reads no texts. Raises ModelError.
    """
    if name in FAMILIES and not weights:
        message = f"{name} needs a file; set weights FILE (of any size), or timm:MODEL.TAG, open_clip:MODEL/TAG"
        raise ModelError(message, kind="weights_required", key="weights")
    known, of_name = describe_both(name, weights)  # before a download, which may be unnecessary
    address = weights or (BACKBONES[name].address if name in BACKBONES else name)

    # ---- the tensors, and the architecture that they and the descriptions determine ----
    file = find_weights(address)
    path, digest = file.path, file.sha256
    content = read_section(path)
    state = convert_state_dict(content.tensors, path)
    sizes = read_sizes(state, path)
    require_family(name, of_name.config, sizes, path, is_described=known.source != of_name.source)
    published = _published_address(address, path, digest)
    if published != address:  # a file that equals a published one
        known = describe(published) or known
    known = (given or Description()).or_else(known)
    config = complete(sizes, known, of_name.config, path)
    own = sizes.get("resolution", config.image.resolution)
    config = _at_resolution(config, resolution or known.resolution or config.image.resolution)

    # ---- the module, which every tensor must fit ----
    _require_pooled(content.tensors.keys(), config, path)
    if sizes.get("resolution") != config.image.resolution:
        _resample(state, config)
    with torch.device("meta"):
        backbone = Backbone(config)
    wanted = backbone.state_dict()
    # BatchNorm's counts of training steps: not used with fixed statistics, and not in every file
    counts = {key for key in wanted if key.endswith(".num_batches_tracked")}
    _check(state, {key: value for key, value in wanted.items() if key not in counts}, path, name)
    _require_floats(state, path)
    if not texts:
        backbone.text = None
        state = {key: value for key, value in state.items() if not key.startswith("text.")}
    state = {key: value.float() for key, value in state.items()}
    _require_finite(state, path)
    backbone.load_state_dict(state | {key: torch.tensor(0) for key in counts}, assign=True)
    backbone.mean, backbone.std = known.mean, known.std
    if config.text is not None:
        backbone.tokenizer = build_tokenizer(config.text, path)

    # ---- the record of their origin ----
    scheme = address.partition(":")[0]
    shown = address if scheme in SCHEMES and scheme != "asset" else path.name
    is_own = not weights or (name in BACKBONES and published == BACKBONES[name].address)
    notes = list(file.notes)
    if content.others or content.section not in ("", "state_dict"):
        notes.append(f"{shown}: the tensors under {content.section} are read" + _not_read(content.others))
    if not (is_own and name in BACKBONES and BACKBONES[name].config):
        notes.append(f"{shown}: {_in_words(config, known)}")
    if known.remark:
        notes.append(f"{shown}: timm remarks: {shortened(known.remark)}")
    notes += _notes_on_resolution(shown, own, config)
    if file.record and (note := file.record.write(digest)):
        notes.append(note)
    return backbone, Weights(path, shown, digest, is_own, tuple(notes))


def _not_read(others: tuple[str, ...]) -> str:
    return f", those under {' and '.join(others)} are not" if others else ""


def _in_words(config: BackboneConfig, known: Description) -> str:
    """The properties that the tensors do not determine, for the log."""
    words = [f"activation {config.activation}"] if config.activation else []
    words += [f"{config.image.heads} heads"] if config.image.heads else []
    pairs = (("mean", known.mean), ("std", known.std))
    words += [f"{key} " + " ".join(f"{x:.4g}" for x in values) for key, values in pairs if values]
    words += [f"licence {known.licence}"] if known.licence else []
    return ", ".join(words)


def _published_address(address: str, path: Path, digest: str) -> str:
    """The address under which a file is published: its own, or that of an equal file; "" where it is not known."""
    if path.resolve().parent == ASSETS and listed_sum(path) in ("", digest):
        return f"asset:{path.name}"
    return OPENAI_SHA256.get(digest, address if address.partition(":")[0] in SCHEMES else "")


def _at_resolution(config: BackboneConfig, resolution: int) -> BackboneConfig:
    """The config for images of this size.

    Raises ModelError for images smaller than a patch, and for partial cells where whole ones are needed. A ResNet
    without an attention pool accepts any size, as its cell is a pixel.
    """
    cell = config.image.cell
    if resolution < cell:
        larger = f"a multiple of {cell}" if config.image.whole_cells else f"{cell} or more"
        message = f"resolution {resolution} is less than a patch of {cell} pixels; choose {larger}"
        raise ModelError(message, kind="resolution_below_a_patch", key="resolution")
    if config.image.whole_cells and resolution % cell:
        lower = resolution // cell * cell
        message = f"resolution {resolution} is not a multiple of {cell}, as a {config.family} needs"
        raise ModelError(
            f"{message}; choose {lower} or {lower + cell}", kind="resolution_of_partial_cells", key="resolution"
        )
    return dataclasses.replace(config, image=config.image.at(resolution))


def _notes_on_resolution(shown: str, own: int, config: BackboneConfig) -> list[str]:
    """A note if the images do not have the size that the tower was made for, or some pixels are not read."""
    resolution = config.image.resolution
    made_for = f"made for images of {own} pixels, " if own != resolution else ""
    rest = resolution % config.image.cell
    beyond = f", whose last {rest} rows and columns are not read" if rest else ""
    return [f"{shown}: {made_for}used at {resolution}{beyond}"] if made_for or beyond else []


def _resample(state: dict[str, Tensor], config: BackboneConfig) -> None:
    """Resamples the learnt positions of the image tower for the grid of the config."""
    image = config.image
    name = "image.positional_embedding" if image.kind == "ViT" else "image.net.head.pos_embed"
    if name in state and state[name].ndim == 2 and image.side:
        count, num_first = len(state[name]), image.num_first
        num_first = count - grid_side(count, num_first) ** 2
        state[name] = resample_positions(state[name], num_first, image.side)


# ---- the tensors ----


def _require_pooled(names: Collection[str], config: BackboneConfig, path: Path) -> None:
    """Raises ModelError for timm's fc_norm, the norm of a pooled feature, if the config has no such norm."""
    if any(name.endswith("fc_norm.weight") for name in names) and not config.image.norms_pooled:
        message = (
            f"{path} has timm's fc_norm, the norm of a feature that is not the class token, which its description "
            "lacks; put its config.json (timm's) beside it"
        )
        raise ModelError(message, kind="undetermined", path=path, key="backbone")


def _check(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path, name: str) -> None:
    """Raises ModelError, with the names of the tensors, unless `state` has exactly the names and shapes of `wanted`."""
    shapes = {key: (tuple(value.shape), tuple(state[key].shape)) for key, value in wanted.items() if key in state}
    wrong = [f"{key} {needed} {found}" for key, (needed, found) in shapes.items() if needed != found]
    for kind, problem, names in (
        ("missing_tensors", "lacks", sorted(wanted.keys() - state.keys())),
        ("unexpected_tensors", "has unexpected tensors:", sorted(state.keys() - wanted.keys())),
        ("wrong_shapes", "has wrong shapes (needed, found):", wrong),
    ):
        if names:
            message = f"{path} is not a complete weight file for {name}: it {problem} {listed(names)}"
            raise ModelError(message, kind=kind, path=path)


def _require_floats(state: dict[str, Tensor], path: Path) -> None:
    """Raises ModelError if a tensor is not of a floating-point type, as in quantised files."""
    for key, value in state.items():
        if not value.is_floating_point():
            message = (
                f"{path} has values of the type {str(value.dtype).removeprefix('torch.')} in {shortened(key)}, not "
                "floating-point weights; choose a file that is not quantised"
            )
            raise ModelError(message, kind="wrong_type", path=path)


def _require_finite(state: dict[str, Tensor], path: Path) -> None:
    """Raises ModelError if a tensor has a NaN or an infinite number. Causal masks, which have them, are not loaded."""
    for key, value in state.items():
        if value.numel() and not torch.isfinite(torch.stack(torch.aminmax(value))).all():
            count = int((~torch.isfinite(value)).sum())
            message = (
                f"{path} has {count} of {value.numel()} values of {shortened(key)} that are not finite numbers; "
                "convert or download it again"
            )
            raise ModelError(message, kind="not_finite", path=path)
