"""Converts the tensor names of published weight files to native ones, by tables of renames.

Checkpoints are converted, not modules: the upstream names of OpenAI, open_clip and timm are replaced, and the result is
loaded strictly (models/weights/load.py). The tables are those of the families (models/backbones/families).
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from models.backbones.families import clip, open_clip, timm_resnet, timm_vit, transformers_dino
from models.backbones.naming import rename
from models.backbones.tokenizer import VOCABULARY
from models.weights.folding import fold, unfold
from utils.errors import ModelError
from utils.text import listed, shortened

NAMINGS = (
    *clip.NAMINGS,
    *open_clip.NAMINGS,
    *timm_vit.NAMINGS,
    *timm_resnet.NAMINGS,
    *transformers_dino.NAMINGS,
)
# In the files, but unused by the towers: OpenAI's records of sizes and its causal mask, timm's ImageNet classifiers,
# BatchNorm's count of training steps, tensors of DINO's training, and tables that follow from the sizes.
NOT_WEIGHTS = re.compile(
    r"input_resolution|context_length|vocab_size|(.*\.)?attn_mask|(head|fc)\.(weight|bias)|.*\.num_batches_tracked"
    r"|(embeddings\.)?mask_token|local_cls_norm\.(weight|bias)|(.*\.)?rope(_embed)?\.(periods|bands|freqs_cos|freqs_sin)"
)
# modules that training programs put around a backbone: data parallelism, torch.compile, Lightning, DINO, MoCo,
# transformers' classifiers
WRAPPERS = (
    "module.", "_orig_mod.", "model.", "backbone.", "encoder.", "image_encoder.", "net.", "network.", "teacher.",
    "student.", "encoder_q.", "encoder_k.", "base_encoder.", "momentum_encoder.", "online_encoder.", "target_encoder.",
    "dinov2.", "dinov2_with_registers.",
)  # fmt: skip
MAX_WRAPPERS = 4
# dimensions of tokens; timm's have more, of size 1
TOKENS = {
    "image.class_token": 1,
    "image.pooling.latent": 1,
    "image.registers": 2,
    "image.register_tokens": 2,
    "image.positional_embedding": 2,
}
# beside a wrapped backbone, the modules that its training needed
HEADS = ("head.", "fc.", "classifier.", "projector.", "predictor.", "projection_head.", "criterion.", "loss.")


def convert_state_dict(state: dict[str, Tensor], path: Path | str = "the file") -> dict[str, Tensor]:
    """Renames a state dict of OpenAI's, open_clip's or timm's naming. Raises ModelError for another naming."""
    state = unwrapped(state, path)
    renames = _renames(state, path)
    state = {new: state[name] for name, new in renames.items()}
    state = {name: _with_dimensions(value, TOKENS.get(name)) for name, value in state.items()}
    return _expand_vocabulary(fold(state, path), path)


def _renames(state: dict[str, Tensor], path: Path | str) -> dict[str, str]:
    """{upstream name: native name} of the weights of a state dict. Raises ModelError for an unknown naming."""
    names = [name for name in state if not NOT_WEIGHTS.fullmatch(name)]
    naming = max(NAMINGS, key=lambda naming: sum(name.startswith(naming.prefix) for name in names))
    if not any(name.startswith(naming.prefix) for name in names):
        message = (
            f"{path} has none of the known namings ({', '.join(n.kind for n in NAMINGS)}); "
            f"its first tensors are {listed(sorted(names)) or 'none'}"
        )
        raise ModelError(message, kind="unknown_naming", path=path)
    # open_clip's models with a separate text module have one prefix more
    renames = {name: rename(name.removeprefix("text."), naming.renames) for name in names}
    _require_one_of_each(renames, path)
    return renames


def invert(state: dict[str, Tensor], like: dict[str, Tensor], library: str) -> dict[str, Tensor]:
    """The state dict of another library's module that `convert_state_dict` turns into the native `state`.

    like: a state dict of that module: its names and shapes, and the values of tensors that are not converted. library:
    for messages. Raises ModelError if the module has no place for a tensor, or for its values, such as a trained bias
    that its Linears lack.
    """
    renames = _renames(like, library)
    parts = unfold(state, set(renames.values()))
    missing = [new for name, new in renames.items() if new not in parts or parts[new].numel() != like[name].numel()]
    if not missing:
        found = like | {name: parts[new].reshape(like[name].shape) for name, new in renames.items()}
        again = convert_state_dict(found)
        used = {name: value for name, value in state.items() if not NOT_WEIGHTS.fullmatch(name)}
        missing = [name for name in used.keys() | again.keys() if not _are_equal(used.get(name), again.get(name))]
    if missing:
        message = f"{library} has no place for the values of {listed(sorted(missing))}; export to onnx or torch"
        raise ModelError(message, kind="unmergeable_tensors")
    return found


def _are_equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def _with_dimensions(value: Tensor, wanted: int | None) -> Tensor:
    """The tensor without leading dimensions of size 1 beyond the wanted ones; None: as it is."""
    while wanted is not None and value.ndim > wanted and value.shape[0] == 1:
        value = value[0]
    return value


def unwrapped(state: dict[str, Tensor], path: Path | str = "the file") -> dict[str, Tensor]:
    """The tensors without the names of WRAPPERS around a known naming; HEADS beside a wrapped backbone are left out.

    Raises ModelError if the names do not determine the wrapped tensors.
    """
    state = _without_prefix(state, "module.", path)
    for _ in range(MAX_WRAPPERS):
        if any(_is_known(name) for name in state):
            return state
        wrappers = [wrapper for wrapper in WRAPPERS if any(_contains_known(name, wrapper) for name in state)]
        if not wrappers:
            return state
        if len(wrappers) > 1:
            message = f"{path} has several backbones, under {' and '.join(wrappers)}; save the tensors of one of them"
            raise ModelError(message, kind="several_backbones", path=path)
        state = {name: value for name, value in state.items() if not name.startswith(HEADS)}
        state = _without_prefix(state, wrappers[0], path)
    return state


def _is_known(name: str) -> bool:
    return name.startswith(tuple(naming.prefix for naming in NAMINGS))


def _contains_known(name: str, wrapper: str) -> bool:
    """Whether a name is one of a known naming, within `wrapper` and perhaps further ones."""
    for _ in range(MAX_WRAPPERS):
        if not name.startswith(wrapper):
            return False
        name = name.removeprefix(wrapper)
        if _is_known(name):
            return True
        wrapper = next((each for each in WRAPPERS if name.startswith(each)), "\0")
    return False


def _without_prefix(state: dict[str, Tensor], prefix: str, path: Path | str) -> dict[str, Tensor]:
    """The tensors without a prefix. Raises ModelError if two would have one name."""
    _require_one_of_each({name: name.removeprefix(prefix) for name in state}, path)
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _require_one_of_each(renames: dict[str, str], path: Path | str) -> None:
    """Raises ModelError if two names would become one."""
    first: dict[str, str] = {}
    for name, new in renames.items():
        if (other := first.setdefault(new, name)) != name:
            message = (
                f"{path} has {shortened(max(name, other, key=len))} and {shortened(min(name, other, key=len))}, "
                "two tensors of one name; save one backbone alone"
            )
            raise ModelError(message, kind="several_backbones", path=path)


def to_openai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A native state dict of a CLIP in OpenAI's naming, for publishing: the inverse of `convert_state_dict`."""
    resnet = any(name.startswith("image.net.") for name in state)
    renames = tuple(
        (native, upstream, tuple((b, a) for a, b in rest))
        for upstream, native, rest in (clip.RESNET if resnet else clip.VIT) + clip.TEXT
    )
    return {rename(name, renames): value for name, value in state.items()}


def _expand_vocabulary(state: dict[str, Tensor], path: Path | str) -> dict[str, Tensor]:
    """Expands a reduced vocabulary: `token_ids` has the token of each embedding row in the file; others become 0."""
    if "token_ids" not in state:
        return state
    try:
        ids, rows = state.pop("token_ids").long(), state["text.token_embedding.weight"]
        state["text.token_embedding.weight"] = rows.new_zeros(VOCABULARY, rows.shape[1]).index_copy(0, ids, rows)
    except (KeyError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"{path}: its token_ids do not fit its token_embedding ({error})", kind="bad_vocabulary", path=path
        ) from error
    return state
