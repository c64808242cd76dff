"""Weight files: all accepted formats and namings, errors, and the sources of files."""

import contextlib
import hashlib
import io
import os
import pickle
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from cases import covering
from full_size import quick_meta
from helpers import (
    GIVEN,
    open_clip_model,
    open_clip_resnet,
    private_hub,
    randomize,
    refused,
    timm_model,
    timm_resnet,
    web_server,
    weights_of,
)
from safetensors.torch import load_file, save, save_file
from torch import nn

from models.backbones import BACKBONES
from models.backbones.backbone import Backbone
from models.backbones.families.clip import clip_resnet, clip_vit
from models.backbones.families.timm_resnet import plain_resnet
from models.backbones.families.timm_vit import plain_vit
from models.backbones.tokenizer import VOCABULARY, tokenize
from models.weights.find import find_weights
from models.weights.load import load_backbone
from models.weights.naming import convert_state_dict, to_openai_names
from models.weights.read import read_tensors
from models.weights.sizes import read_sizes, sizes_of
from utils.config.parsing import NORMALISATIONS
from utils.errors import ModelError
from utils.imports import submodule

CLIP_CONFIG = clip_vit(128, 3, 16, 64, joint=48, text_dim=64, text_depth=2)
VIT_CONFIG = plain_vit(128, 3, 16, 64)
# kind: (its name for files of any size, its family in words, a small model of another package, its sizes)
KINDS = {
    "clip": ("clip_vit", "CLIP ViT", open_clip_model, CLIP_CONFIG),
    "vit": ("vit", "ViT without a text tower", timm_model, VIT_CONFIG),
    "clip resnet": (
        "clip_rn",
        "CLIP ResNet",
        open_clip_resnet,
        clip_resnet((1, 2, 1, 1), 8, 96, joint=48, text_dim=64, text_depth=2),
    ),
    "resnet": (
        "rn",
        "ResNet without a text tower",
        timm_resnet,
        plain_resnet((1, 2, 1, 1), width=8),
    ),
}
CLIPS = ["clip", "clip resnet"]
OWN = {name: source for name, source in BACKBONES.items() if source.config}  # described here, not by their library


@pytest.fixture(scope="module")
def small():
    """{kind: the tensors of a small backbone}: CLIPs in OpenAI's naming, which is open_clip's too, others in timm's.

    timm's have their ImageNet classifier.
    """
    states = {kind: weights_of(model()) for kind, (_, _, model, _) in KINDS.items()}
    for state in states.values():
        state.pop("attn_mask", None)
    return states


@pytest.fixture(scope="module")
def clip_weights(small):
    return small["clip"]


@pytest.fixture(scope="module")
def vit_weights(small):
    return small["vit"]


EMBEDDING = "token_embedding.weight"


def of_few_words(state):
    """The tensors with a reduced vocabulary if they have a text tower: a file with all 49408 tokens has 13 MB."""
    if EMBEDDING not in state:
        return state
    return state | {"token_ids": torch.arange(100), EMBEDDING: state[EMBEDDING][:100].clone()}


def load_described(kind, path):
    """The backbone from a file of a small model, with the properties that its tensors do not determine."""
    name = KINDS[kind][0]
    return load_backbone(name, str(path), GIVEN[name])


def our_tensors(config):
    """The tensors of the backbone that a file must have: all except BatchNorm's counts of training steps."""
    with torch.device("meta"):
        state = Backbone(config).state_dict()
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


# ---- formats ----


def save_torchscript(state, path):
    """A TorchScript archive as published by OpenAI: nested modules, parameters in fp16, records of the sizes."""
    root = nn.Module()
    for name, value in state.items():
        kept = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        *modules, leaf = name.split(".")
        module = root
        for part in modules:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_buffer(leaf, value) if kept else module.register_parameter(leaf, nn.Parameter(value.half()))
    for name, size in {"input_resolution": 64, "context_length": 77, "vocab_size": VOCABULARY}.items():
        root.register_buffer(name, torch.tensor(size))
    torch.jit.save(torch.jit.script(root), path)


FORMATS = {
    "safetensors": ("w.safetensors", save_file),
    "state dict": ("w.pt", torch.save),
    "state dict in the old format": ("w.pth", lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False)),
    "training checkpoint": ("w.pt", lambda s, p: torch.save({"epoch": 32, "name": "ViT", "state_dict": s}, p)),
    "TorchScript": ("w.pt", save_torchscript),
    "parameters": ("w.pt", lambda s, p: torch.save({k: nn.Parameter(v, v.ndim > 0) for k, v in s.items()}, p)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name, kind, small, tmp_path):
    file, write = FORMATS[name]
    write(small[kind], tmp_path / file)
    backbone, found = load_described(kind, tmp_path / file)
    assert (found.path, found.name, found.published) == (tmp_path / file, file, False)
    assert backbone.config == KINDS[kind][3]
    state = backbone.state_dict()
    for key, value in convert_state_dict(small[kind]).items():
        rounded = name == "TorchScript" and not key.endswith(("running_mean", "running_var"))
        assert torch.equal(state.pop(key), value.half().float() if rounded else value), key
    assert all(key.endswith("num_batches_tracked") for key in state)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_torchscript_tensors_may_be_views_and_of_any_precision(tmp_path):
    whole = torch.randn(6, 5)
    tensors = {"slice": whole[2:4, 1:], "turned": whole.T, "empty": whole[:0], "number": torch.tensor(7)}
    tensors |= {f"w{i}": whole.to(t) for i, t in enumerate((torch.bfloat16, torch.float64, torch.int32))}
    module = nn.Module()
    for name, value in tensors.items():
        module.register_buffer(name, value)
    torch.jit.save(torch.jit.script(module), tmp_path / "w.pt")
    found = read_tensors(tmp_path / "w.pt")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_files_become_float32(kind, small, tmp_path):
    state = of_few_words({name: value.bfloat16() for name, value in small[kind].items()})
    save_file(state, tmp_path / "w.safetensors")
    backbone, _ = load_described(kind, tmp_path / "w.safetensors")
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    statistics = [value for name, value in backbone.named_buffers() if "running" in name]
    assert bool(statistics) == ("resnet" in kind)
    assert all(value.dtype == torch.float32 for value in statistics)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("kind", ["clip resnet", "resnet"])
def test_batch_norms_may_lack_their_counts_of_steps(kind, counted, load, small):
    def drop(state):
        for name in [name for name in state if name.endswith("num_batches_tracked") and not counted]:
            del state[name]

    backbone, _ = load(kind, drop)
    theirs = convert_state_dict(small[kind])
    buffers = dict(backbone.image.named_buffers(prefix="image"))
    assert len(buffers) == 3 * len([name for name in theirs if name.endswith("running_mean")])
    for name, value in buffers.items():
        assert value.device.type == "cpu"
        assert torch.equal(value, theirs.get(name, torch.tensor(0)))


@pytest.mark.parametrize("name", OWN)
def test_a_named_backbone_takes_files_of_its_own_sizes_only(name, small, tmp_path):
    family = BACKBONES[name].config.family
    kind = next(kind for kind in KINDS if KINDS[kind][1] == family)
    save_file(of_few_words(small[kind]), tmp_path / "w.safetensors")
    with refused(ModelError, kind="wrong_size", path=tmp_path / "w.safetensors"):
        load_backbone(name, str(tmp_path / "w.safetensors"), GIVEN[KINDS[kind][0]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_takes_files_of_any_size(kind, small, tmp_path):
    save_file(small[kind], tmp_path / "w.safetensors")
    backbone, _ = load_described(kind, tmp_path / "w.safetensors")
    assert backbone.config == KINDS[kind][3]
    assert backbone.image.dim == backbone.config.image.dim
    assert backbone.image.resolution == backbone.config.image.resolution
    with refused(ModelError, kind="weights_required", key="weights"):
        load_backbone(KINDS[kind][0])


# ---- namings ----


def with_text_module(state):
    """open_clip's other naming: the text tower's names below `text.`."""
    top = ("visual.", "logit_scale")
    named = {name if name.startswith(top) else f"text.{name}": value for name, value in state.items()}
    return named | {"text.attn_mask": torch.zeros(77, 77)}


CLIP_NAMINGS = {
    "openai": lambda state: state | {"input_resolution": torch.tensor(64), "context_length": torch.tensor(77)},
    "open_clip": lambda state: state | {"attn_mask": torch.zeros(77, 77)},
    "open_clip, text apart": with_text_module,
    "wrapped": lambda state: {f"module.{name}": value for name, value in state.items()},
    "wrapped, text apart": lambda state: {f"module.{n}": value for n, value in with_text_module(state).items()},
}


@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize("naming", CLIP_NAMINGS)
def test_every_clip_naming_is_read(naming, kind, small):
    ours = convert_state_dict(small[kind])
    found = convert_state_dict(CLIP_NAMINGS[naming](small[kind]))
    assert found.keys() == ours.keys() == our_tensors(KINDS[kind][3]).keys()
    assert all(found[name] is value for name, value in ours.items())


@pytest.mark.parametrize("kind, classifier", [("vit", "head."), ("resnet", "fc.")])
def test_timm_naming_is_read_with_and_without_its_classifier(kind, classifier, small):
    whole = small[kind]
    assert f"{classifier}weight" in whole
    wanted = {name: value.shape for name, value in our_tensors(KINDS[kind][3]).items()}
    headless = {name: value for name, value in whole.items() if not name.startswith(classifier)}
    for state in (whole, headless, {f"module.{name}": value for name, value in headless.items()}):
        assert {name: value.shape for name, value in convert_state_dict(state).items()} == wanted


@pytest.mark.parametrize("kind", CLIPS)
def test_our_names_and_openais_are_inverse(kind, small):
    again = to_openai_names(convert_state_dict(small[kind]))
    theirs = {name: value for name, value in small[kind].items() if not name.endswith("num_batches_tracked")}
    assert again.keys() == theirs.keys()
    assert all(again[name] is value for name, value in theirs.items())


def test_another_naming_is_refused_by_name(tmp_path):
    save_file({"encoder.layer.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with refused(ModelError, kind="unknown_naming", path=tmp_path / "w.safetensors"):
        load_backbone("clip_vit_b16", str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", OWN)
def test_sizes_are_read_from_the_tensors(name):
    config = BACKBONES[name].config
    with torch.device("meta"):
        assert read_sizes(Backbone(config).state_dict()) == sizes_of(config)


def published_model(address):
    """open_clip's or timm's own model of an address, on the meta device."""
    import open_clip
    import timm

    kind, _, name = address.partition(":")
    with quick_meta():
        if kind == "timm":
            return timm.create_model(name)
        return open_clip.CLIP(**open_clip.get_model_config(name), quick_gelu=True)


@pytest.mark.parametrize("name", [name for name in OWN if not OWN[name].address.startswith("asset:")])
def test_published_architecture_has_our_sizes_and_all_our_tensors(name):
    state = convert_state_dict(published_model(BACKBONES[name].address).state_dict())
    assert read_sizes(state) == sizes_of(BACKBONES[name].config)
    wanted = our_tensors(BACKBONES[name].config)
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in wanted.items()}


# ---- strictness ----

# one of each kind of tensor, and its name here; patches and class tokens also distinguish the namings
CLIP_SAMPLE = {
    "visual.conv1.weight": "image.patch_embed.weight",
    "visual.class_embedding": "image.class_token",
    "visual.positional_embedding": "image.positional_embedding",
    "visual.ln_pre.bias": "image.norm_pre.bias",
    "visual.transformer.resblocks.0.attn.in_proj_weight": "image.blocks.0.attn.qkv.weight",
    "visual.transformer.resblocks.2.mlp.c_proj.bias": "image.blocks.2.mlp.fc2.bias",
    "visual.ln_post.weight": "image.norm.weight",
    "visual.proj": "image_projection",
    "token_embedding.weight": "text.token_embedding.weight",
    "positional_embedding": "text.positional_embedding",
    "transformer.resblocks.1.ln_2.weight": "text.blocks.1.norm2.weight",
    "ln_final.weight": "text.norm.weight",
    "text_projection": "text_projection",
    "logit_scale": "logit_scale",
}
VIT_SAMPLE = {
    "patch_embed.proj.weight": "image.patch_embed.weight",
    "patch_embed.proj.bias": "image.patch_embed.bias",
    "cls_token": "image.class_token",
    "pos_embed": "image.positional_embedding",
    "blocks.0.norm1.bias": "image.blocks.0.norm1.bias",
    "blocks.2.attn.qkv.weight": "image.blocks.2.attn.qkv.weight",
    "norm.weight": "image.norm.weight",
}
CLIP_RESNET_SAMPLE = {
    "visual.conv1.weight": "image.net.stem.conv1.conv.weight",
    "visual.bn3.running_var": "image.net.stem.conv3.bn.running_var",
    "visual.layer1.0.conv1.weight": "image.net.stages.0.0.conv1_1x1.conv.weight",
    "visual.layer2.1.bn2.running_mean": "image.net.stages.1.1.conv2_kxk.bn.running_mean",
    "visual.layer3.0.downsample.0.weight": "image.net.stages.2.0.shortcut.conv.conv.weight",
    "visual.layer4.0.downsample.1.bias": "image.net.stages.3.0.shortcut.conv.bn.bias",
    "visual.attnpool.positional_embedding": "image.net.head.pos_embed",
    "visual.attnpool.q_proj.weight": "image.net.head.q.weight",
    "visual.attnpool.c_proj.weight": "image.net.head.proj.weight",
    "positional_embedding": "text.positional_embedding",
    "text_projection": "text_projection",
}
RESNET_SAMPLE = {
    "conv1.weight": "image.net.conv1.weight",
    "bn1.running_mean": "image.net.bn1.running_mean",
    "layer1.0.conv1.weight": "image.net.layer1.0.conv1.weight",
    "layer2.1.bn3.bias": "image.net.layer2.1.bn3.bias",
    "layer4.0.downsample.0.weight": "image.net.layer4.0.downsample.0.weight",
    "layer4.0.downsample.1.running_var": "image.net.layer4.0.downsample.1.running_var",
}
SAMPLES = {"clip": CLIP_SAMPLE, "vit": VIT_SAMPLE, "clip resnet": CLIP_RESNET_SAMPLE, "resnet": RESNET_SAMPLE}
SAMPLE = [(kind, *names) for kind, sample in SAMPLES.items() for names in sample.items()]


@pytest.fixture
def load(small, tmp_path):
    """load(kind, change) -> the backbone from a file of that kind, its tensors changed by `change`; and its path."""

    def load(kind, change):
        state = dict(small[kind])
        change(state)
        unchanged = state.get(EMBEDDING) is small[kind].get(EMBEDDING)
        save_file(of_few_words(state) if unchanged else state, tmp_path / "w.safetensors")
        return load_described(kind, tmp_path / "w.safetensors")

    return load


@pytest.mark.parametrize("kind, theirs, ours", SAMPLE)
def test_missing_tensor_is_named(kind, theirs, ours, load):
    with refused(ModelError) as caught:
        load(kind, lambda state: state.pop(theirs))
    tells_namings_apart = theirs.startswith(("visual.conv1", "patch_embed"))
    assert caught.value.kind == "missing_tensors" or tells_namings_apart


@pytest.mark.parametrize(
    "kind, part, missing",
    [
        ("clip", "transformer.", "text.blocks.0"),
        ("clip resnet", "visual.layer4.", "image.net.stages.3.0"),
        ("resnet", "layer3.", "image.net.layer3.0"),
    ],
)
def test_missing_stack_of_blocks_is_named(kind, part, missing, load):
    """Depths are read from the file, but no stack is empty."""

    def drop(state):
        for name in [name for name in state if name.startswith(part)]:
            del state[name]

    with refused(ModelError, kind="missing_tensors") as caught:
        load(kind, drop)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__cause__.args == (missing,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["visual.extra", "visual.layer1.extra", "blocks.0.attn.extra", "blocks.extra", "head.extra", "extra"]
)
def test_unexpected_tensor_is_named(kind, name, load):
    with refused(ModelError) as caught:
        load(kind, lambda state: state.update({name: torch.ones(2)}))
    assert caught.value.kind in ("unexpected_tensors", "missing_tensors")


MISSHAPED = {
    "of one dimension": lambda value: torch.zeros(7),
    "longer": lambda value: torch.cat([value.reshape(-1, *value.shape[1:])] * 2),
}


SHAPED = [(kind, name) for kind, name, _ in SAMPLE if name != "positional_embedding"]
WRONG = [(change, *names) for change, names in covering([*MISSHAPED], SHAPED, together=1)]
# a longer one is a text tower for longer texts, and all right
WRONG += [("of one dimension", kind, "positional_embedding") for kind in CLIPS]


@pytest.mark.parametrize("change, kind, name", WRONG)
def test_wrong_shape_is_an_error(change, kind, name, load, tmp_path):
    """Also for a tensor that sizes are read from: then the others do not fit."""
    with refused(ModelError, path=tmp_path / "w.safetensors"):
        load(kind, lambda state: state.update({name: MISSHAPED[change](state[name])}))


@pytest.mark.parametrize("name", ["visual.ln_pre.bias", "token_embedding.weight", "ln_final.weight", "logit_scale"])
def test_wrong_shape_is_named_with_both_shapes(name, load):
    with refused(ModelError, kind="wrong_shapes"):
        load("clip", lambda state: state.update({name: torch.zeros(7)}))


@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("held", KINDS)
def test_wrong_family_is_refused(wanted, held, small, tmp_path):
    save_file(of_few_words(small[held]), tmp_path / "w.safetensors")
    name, family, *_ = KINDS[wanted]
    if wanted == held:
        assert load_described(held, tmp_path / "w.safetensors")[0].config.family == family
    else:
        with refused(ModelError, kind="wrong_family", path=tmp_path / "w.safetensors"):
            load_backbone(name, str(tmp_path / "w.safetensors"))


def test_clip_resnet_of_a_width_that_timm_rounds_is_refused(load):
    with refused(ModelError, kind="unsupported_width"):
        load("clip resnet", lambda state: state.update({"visual.layer1.0.conv1.weight": torch.zeros(12, 8, 1, 1)}))


# ---- files that would run code, or are not weight files ----


@contextlib.contextmanager
def refused_for(**fields):
    """A ModelError with these fields, with a message that contains another library's."""
    with pytest.raises(ModelError) as caught:
        yield caught
    assert {name: getattr(caught.value, name) for name in fields} == {
        name: os.fspath(value) if isinstance(value, Path) else value for name, value in fields.items()
    }


class Evil:
    """Creates a folder if it is unpickled without care."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"mkdir {self.folder}",)


def zip_of(members):
    """The bytes of a zip archive {name: content}."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


def torchscript_of(pickled):
    """Looks like a TorchScript archive, with a chosen data.pkl."""
    return zip_of({"x/data.pkl": pickled, "x/constants.pkl": b"\x80\x02)."})


def saved(content):
    data = io.BytesIO()
    torch.save(content, data)
    return data.getvalue()


EVIL_FILES = {
    "torch.save": lambda evil: saved(evil),
    "torch.save in a state dict": lambda evil: saved({"w": torch.ones(1), "evil": evil}),
    "torch.save in a checkpoint": lambda evil: saved({"state_dict": {"w": torch.ones(1)}, "optimizer": evil}),
    "bare pickle": lambda evil: pickle.dumps(evil, protocol=2),
    "TorchScript": lambda evil: torchscript_of(pickle.dumps(evil, protocol=2)),
    "TorchScript, by another name": lambda evil: torchscript_of(
        f'cbuiltins\neval\n(S\'__import__("os").mkdir("{evil.folder}")\'\ntR.'.encode()
    ),
    "TorchScript constants": lambda evil: zip_of(
        {"x/data.pkl": pickle.dumps({}), "x/constants.pkl": pickle.dumps(evil, protocol=2)}
    ),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", EVIL_FILES)
def test_file_that_would_run_code_is_refused_and_runs_nothing(name, suffix, tmp_path):
    content = EVIL_FILES[name](Evil(tmp_path / "ran"))
    (tmp_path / f"w{suffix}").write_bytes(content)
    with refused_for(path=tmp_path / f"w{suffix}", kind="unreadable_weights"):
        load_backbone("clip_vit_b16", str(tmp_path / f"w{suffix}"))
    assert not (tmp_path / "ran").exists()


def test_the_evil_files_are_evil(tmp_path):
    """Loaded without care, they do run; otherwise the test above would prove nothing."""
    evil = Evil(tmp_path / "ran")
    pickle.loads(pickle.dumps(evil))
    assert evil.folder.is_dir()
    evil.folder.rmdir()
    torch.load(io.BytesIO(EVIL_FILES["torch.save in a state dict"](evil)), weights_only=False)
    assert evil.folder.is_dir()


GOOD = save({"a": torch.arange(6.0)})
DAMAGED = {
    "text.pt": b"not weights\n",
    "text.safetensors": b"not weights\n",
    "empty.pt": b"",
    "empty.safetensors": b"",
    "cut.safetensors": GOOD[:-5],
    "cut header.safetensors": GOOD[:20],
    "cut.pt": saved({"a": torch.zeros(1000)})[:-300],
    "number.pt": saved(7),
    "list.pt": saved([torch.ones(1)]),
    "no tensors.pt": saved({"a": 1}),
    "checkpoint without weights.pt": saved({"state_dict": None}),
    "no names.pt": saved({1: torch.ones(1)}),
    "archive.pt": zip_of({"readme.txt": b"hello"}),
    "script without data.pt": zip_of({"x/constants.pkl": b""}),
    "script, empty.pt": torchscript_of(b""),
    "script, stack empty.pt": torchscript_of(b"\x80\x02."),
    "script, no module.pt": torchscript_of(pickle.dumps((1, 2))),
    "script, number.pt": torchscript_of(pickle.dumps(3)),
    "script, memo.pt": torchscript_of(b"\x80\x02q\x01h\x05."),
    "script, wrong call.pt": torchscript_of(b"ctorch._utils\n_rebuild_tensor_v2\n(I1\ntR."),
    "script, noise.pt": torchscript_of(bytes(range(40, 200))),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file_is_an_error_that_names_it(name, tmp_path):
    (tmp_path / name).write_bytes(DAMAGED[name])
    read = name in ("number.pt", "list.pt", "no tensors.pt", "checkpoint without weights.pt", "no names.pt")
    with refused_for(path=tmp_path / name, kind="not_a_state_dict" if read else "unreadable_weights"):
        load_backbone("clip_vit_b16", str(tmp_path / name))


@pytest.mark.parametrize("address", ["/no/such/file.pt", "", "timn:model", "."])
def test_missing_file_is_an_error_that_names_it(address):
    with refused(ModelError, kind="missing_file", path=Path(address), key="weights"):
        find_weights(address)


# ---- reduced vocabulary ----


def test_reduced_vocabulary_is_expanded_and_knows_what_it_kept(clip_weights, tmp_path):
    names = ["cat", "small dog", "tree_frog"]
    ids = tokenize([f"a photo of a {name}." for name in names]).unique()
    reduced = clip_weights | {"token_ids": ids, "token_embedding.weight": clip_weights["token_embedding.weight"][ids]}
    save_file(clip_weights, tmp_path / "whole.safetensors")
    save_file(reduced, tmp_path / "reduced.safetensors")
    assert len(ids) < 20
    whole, _ = load_described("clip", tmp_path / "whole.safetensors")
    small, _ = load_described("clip", tmp_path / "reduced.safetensors")
    assert torch.equal(small.encode_classnames(names), whole.encode_classnames(names))
    with refused(ModelError, kind="unknown_word"):
        small.encode_classnames(["cat", "submarine"])
    with refused(ModelError, kind="unknown_word"):
        small.encode_classnames(["cat!"])
    whole.encode_classnames(["submarine", "cat!"])


@pytest.mark.parametrize("ids", [torch.tensor([0, 1, VOCABULARY]), torch.tensor([0, 1]), torch.tensor([-1, 0, 1])])
def test_reduced_vocabulary_that_does_not_fit_is_an_error(ids, load, clip_weights, tmp_path):
    rows = clip_weights["token_embedding.weight"][:3].clone()
    with refused_for(kind="bad_vocabulary", path=tmp_path / "w.safetensors"):
        load("clip", lambda state: state.update({"token_ids": ids, "token_embedding.weight": rows}))


# ---- sources of files ----

REPOSITORIES = {
    "clip_vit_b32": "timm/vit_base_patch32_clip_224.openai",
    "clip_vit_b16": "timm/vit_base_patch16_clip_224.openai",
    "clip_vit_l14": "timm/vit_large_patch14_clip_224.openai",
    "clip_vit_l14@336px": "timm/vit_large_patch14_clip_336.openai",
    "clip_rn50": "timm/resnet50_clip.openai",
    "clip_rn101": "timm/resnet101_clip.openai",
    "in21k_vit_b16": "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "in21k_vit_b16@384px": "timm/vit_base_patch16_384.augreg_in21k_ft_in1k",
    "in21k_vit_l16": "timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
    "in21k_vit_l16@384px": "timm/vit_large_patch16_384.augreg_in21k_ft_in1k",
    "in1k_rn50": "timm/resnet50.a1_in1k",
    "in1k_rn101": "timm/resnet101.a1h_in1k",
    "in1k_rn152": "timm/resnet152.a1h_in1k",
}
PUBLISHED = [name for name, source in OWN.items() if not source.address.startswith("asset:")]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """hub(files) -> (a context in which a Hugging Face hub serves them on 127.0.0.1, paths asked for); empty cache."""
    use = private_hub(monkeypatch, tmp_path)

    def start(files):
        commit = "0123456789012345678901234567890123456789"
        stack = ExitStack()
        address, asked = stack.enter_context(web_server(files, {"ETag": '"e1"', "X-Repo-Commit": commit}))
        use(address)
        return stack, asked

    return start


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_are_downloaded_once(name, hub):
    address = BACKBONES[name].address
    file = "open_clip_model.safetensors" if address.startswith("clip:") else "model.safetensors"
    published = f"/{REPOSITORIES[name]}/resolve/main/{file}"
    server, asked = hub({published: GOOD})
    with server:
        path = find_weights(address).path
        assert path.read_bytes() == GOOD
        assert path.name == file
        assert published in asked
    assert find_weights(address).path == path  # the server is off


def test_downloaded_weights_become_a_backbone(hub, clip_weights, vit_weights, monkeypatch):
    """Small ones replace the published ones."""
    for name, config in (("clip_vit_b16", CLIP_CONFIG), ("in21k_vit_b16", VIT_CONFIG)):
        monkeypatch.setitem(BACKBONES, name, BACKBONES[name]._replace(config=config))
    server, _ = hub(
        {
            f"/{REPOSITORIES['clip_vit_b16']}/resolve/main/open_clip_model.safetensors": save(clip_weights),
            f"/{REPOSITORIES['in21k_vit_b16']}/resolve/main/model.safetensors": save(vit_weights),
        }
    )
    with server:
        clip, found = load_backbone("clip_vit_b16")
        assert (found.name, found.published, found.notes) == ("clip:ViT-B-16", True, ())
        assert clip.config == CLIP_CONFIG
        assert (clip.config.activation, clip.config.image.heads, clip.config.text_heads) == ("quick_gelu", 2, 1)
        assert (clip.mean, clip.std) == NORMALISATIONS["clip"]
        vit, found = load_backbone("in21k_vit_b16")
        assert found.published
        assert (vit.config.activation, vit.config.image.heads, vit.config.text_heads) == ("gelu", 2, None)
        assert (vit.mean, vit.std) == NORMALISATIONS["half"]
        assert torch.equal(vit.image.class_token, vit_weights["cls_token"][0, 0])


@pytest.mark.parametrize("name", ["clip_vit_b16", "in21k_vit_b16", "clip_rn50", "in1k_rn50"])
def test_offline_says_what_to_fetch(name, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its attempts
    with hub({})[0]:
        pass  # the server is off from here on
    source = {"clip_vit_b16": "/ViT-B-16.pt", "clip_rn50": "/RN50.pt"}.get(name, REPOSITORIES[name])
    with refused_for(kind="download_failed", key="weights") as caught:
        load_backbone(name)
    assert source in str(caught.value)  # the words of the hub's client differ between its versions


@pytest.mark.parametrize("address", ["clip:no-such-model", "timm:no_such_model", "timm:vit_base_patch16_224.no_tag"])
def test_unpublished_weights_are_an_error_that_names_them(address, hub):
    server, asked = hub({})
    with server, refused(ModelError, kind="unknown_weights", key="weights"):
        find_weights(address)
    assert not asked


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize(
    "name, file", [("clip_vit_b16", "ViT-B-16.pt"), ("clip_rn50", "RN50.pt"), ("clip_rn101", "RN101.pt")]
)
def test_openai_clips_cache_is_used_if_its_checksum_is_right(name, file, right, hub, tmp_path, monkeypatch):
    import open_clip

    address = BACKBONES[name].address
    published = open_clip.get_pretrained_cfg(address.removeprefix("clip:"), "openai")
    *_, digest, last = published["url"].split("/")
    assert (len(digest), last) == (64, file)
    content = hashlib.sha256(b"weights" if right else b"other weights").hexdigest()
    published = published | {"url": published["url"].replace(digest, content)}
    monkeypatch.setattr(submodule("open_clip.pretrained"), "get_pretrained_cfg", lambda model, tag: published)
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / file).write_bytes(b"weights")
    server, asked = hub({f"/{REPOSITORIES[name]}/resolve/main/open_clip_model.safetensors": GOOD})
    with server:
        path = find_weights(address).path
    assert path.read_bytes() == (b"weights" if right else GOOD)
    assert bool(asked) != right


def test_asset_of_the_repository_is_a_whole_backbone():
    backbone, found = load_backbone("clip_tiny")
    assert backbone.config == BACKBONES["clip_tiny"].config
    assert found.published
    assert len(load_file(found.path)["token_ids"]) < VOCABULARY
    backbone.encode_classnames(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])


@pytest.mark.parametrize("kind", CLIPS)
def test_backbone_from_random_weights_survives_a_round_trip(kind, tmp_path):
    backbone = randomize(Backbone(KINDS[kind][3]))
    torch.save(to_openai_names(backbone.state_dict()), tmp_path / "w.pt")
    again, _ = load_described(kind, tmp_path / "w.pt")
    assert again.config == backbone.config
    theirs = backbone.state_dict()
    for name, value in again.state_dict().items():
        assert torch.equal(value, theirs[name]) or name.endswith("num_batches_tracked"), name


# ---- state dicts of training programs ----


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def headless(state):
    return {name: value for name, value in state.items() if not name.startswith(("head.", "fc."))}


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
DINO_HEAD = {"head.mlp.0.weight": torch.ones(3), "head.last_layer.weight_g": torch.ones(3)}
# (kind, content of the tensors, the words of the note in the log)
TRAINED = {
    "MAE, DeiT": ("vit", lambda s: {"model": s, "optimizer": OPTIMIZER, "epoch": 3}, "under model are read"),
    "DINO": (
        "vit",
        lambda s: {
            "student": prefixed("module.backbone.", {n: v + 1 for n, v in headless(s).items()}),
            "teacher": prefixed("backbone.", headless(s)) | DINO_HEAD,
            "optimizer": OPTIMIZER,
        },
        "under teacher are read, those under student are not",
    ),
    "DINO's teacher": ("vit", lambda s: {"teacher": prefixed("backbone.", headless(s)) | DINO_HEAD}, "teacher"),
    "a student": ("vit", lambda s: {"student": prefixed("module.backbone.", s)}, "under student are read"),
    "Lightning": ("clip", lambda s: {"state_dict": prefixed("model.", s), "callbacks": {}, "loops": {}}, None),
    "timm": (
        "vit",
        lambda s: {"state_dict": s, "state_dict_ema": {n: v + 1 for n, v in s.items()}, "arch": "vit"},
        "under state_dict are read, those under state_dict_ema are not",
    ),
    "DeepSpeed": ("clip resnet", lambda s: {"module": s, "ds_config": {}}, "under module are read"),
    "torch.compile, in parallel": ("vit", lambda s: prefixed("module._orig_mod.", s), None),
    "a net": ("resnet", lambda s: {"net": prefixed("module.", s), "acc": 90.1}, "under net are read"),
    "SimCLR": (
        "resnet",
        lambda s: {"state_dict": prefixed("backbone.", headless(s)) | {"projector.0.weight": torch.ones(2)}},
        None,
    ),
    "an average": ("vit", lambda s: {"ema": s, "epoch": torch.tensor(3)}, "under ema are read"),
    "model_state_dict": ("clip", lambda s: {"model_state_dict": s, "loss": 0.1}, "under model_state_dict are read"),
    "parts in parallel": ("vit", lambda s: {("module." + n if "norm" in n else n): v for n, v in s.items()}, None),
}


@pytest.mark.parametrize("name", TRAINED)
def test_state_dict_of_a_training_program_is_read(name, small, tmp_path):
    kind, change, words = TRAINED[name]
    tensors = of_few_words(small[kind])
    torch.save(change(tensors), tmp_path / "w.pt")
    backbone, found = load_described(kind, tmp_path / "w.pt")
    state = backbone.state_dict()
    for key, value in convert_state_dict(tensors).items():
        assert torch.equal(state[key], value), key
    noted = [note for note in found.notes if "are read" in note]
    assert [words in note for note in noted] == ([True] if words else [])


UNDECIDED = {  # (content of the tensors, kind of the error)
    "model and its average": (lambda s: {"model": s, "model_ema": s}, "several_state_dicts"),
    "teacher, student and model": (lambda s: {"teacher": s, "student": s, "model": s}, "several_state_dicts"),
    "two backbones": (lambda s: prefixed("model.", s) | prefixed("teacher.", s), "several_backbones"),
    "MoCo": (lambda s: prefixed("encoder_q.", s) | prefixed("encoder_k.", s), "several_backbones"),
    "one name twice": (lambda s: s | {"module.cls_token": s["cls_token"] + 1}, "several_backbones"),
    "a number among the tensors": (lambda s: {"model": s | {"step": 3}}, "not_a_state_dict"),
    "an unusual key": (lambda s: {"wights": s, "epoch": 3}, "not_a_state_dict"),
    "two levels": (lambda s: {"model": {"inner": s}}, "not_a_state_dict"),
    "no model": (lambda s: {"model": None, "epoch": 3}, "not_a_state_dict"),
    "a tensor beside": (lambda s: prefixed("backbone.", s) | {"adapter.w": torch.ones(1)}, "unexpected_tensors"),
    "a block of a huge number": (lambda s: s | {"blocks.999999999.w": torch.ones(1)}, "unexpected_tensors"),
    "a block of a long number": (lambda s: s | {f"blocks.{'9' * 5000}.w": torch.ones(1)}, "unexpected_tensors"),
    "a block of another script": (lambda s: s | {"blocks.٧.w": torch.ones(1)}, "missing_tensors"),
    "thousands of blocks": (lambda s: s | {f"blocks.{i}.w": torch.ones(1) for i in range(3, 5000)}, "impossible_size"),
    "no channels": (lambda s: s | {"patch_embed.proj.weight": torch.ones(0, 3, 16, 16)}, "impossible_size"),
    "huge empty channels": (lambda s: s | {"patch_embed.proj.weight": torch.ones(2**40, 0, 16, 16)}, "impossible_size"),
    "int8": (lambda s: s | {"norm.weight": torch.ones(128, dtype=torch.int8)}, "wrong_type"),
    "complex": (lambda s: s | {"norm.weight": torch.ones(128, dtype=torch.complex64)}, "wrong_type"),
    "NaN": (lambda s: s | {"norm.weight": torch.full((128,), float("nan"))}, "not_finite"),
    "one infinite number": (
        lambda s: s | {"norm.bias": torch.cat([torch.ones(127), torch.tensor([-torch.inf])])},
        "not_finite",
    ),
    "beyond float32": (lambda s: s | {"norm.bias": torch.full((128,), 1e300, dtype=torch.double)}, "not_finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDECIDED)
def test_file_that_nothing_decides_on_is_refused(name, small, tmp_path):
    change, kind = UNDECIDED[name]
    torch.save(change(small["vit"]), tmp_path / "w.pt")
    with refused(ModelError, kind=kind, path=tmp_path / "w.pt") as caught:
        load_described("vit", tmp_path / "w.pt")
    assert len(str(caught.value)) < 600


def test_masks_and_classifiers_that_are_not_read_may_be_infinite(small, tmp_path):
    mask = {"attn_mask": torch.full((77, 77), -torch.inf).triu(1)}
    torch.save(small["clip"] | mask, tmp_path / "clip.pt")
    load_described("clip", tmp_path / "clip.pt")
    torch.save(small["vit"] | {"head.weight": torch.full((5, 128), torch.nan)}, tmp_path / "vit.pt")
    load_described("vit", tmp_path / "vit.pt")


NAMES = ["\n\x1b[31m\u202e" + "x" * 10**6, "\udcff", "\x00", "a\rb\u2028c", "x" * 10**6]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
@pytest.mark.parametrize("place", ["tensor", "key", "naming", "class"])
def test_names_in_files_stay_on_one_short_line(place, name, small, tmp_path):
    contents = {"tensor": small["vit"] | {name: torch.ones(1)}, "key": {name: 1}, "naming": {name: torch.ones(1)}}
    if place == "class":
        text = name[:200].replace("\n", "").encode("utf-8", "surrogatepass")
        (tmp_path / "w.pt").write_bytes(zip_of({"x/data.pkl": b"\x80\x02c" + text + b"\nf\n."}))
    else:
        torch.save(contents[place], tmp_path / "w.pt")
    with pytest.raises(ModelError) as caught:
        load_described("vit", tmp_path / "w.pt")
    message = str(caught.value)
    assert len(message) < 700
    assert message.isprintable() or not any(ord(sign) < 32 or sign in "\u202e\u2028\x7f" for sign in message)


def test_thousands_of_unknown_tensors_are_counted(small, tmp_path):
    extra = {f"extra.{i}": torch.ones(0) for i in range(3_000)}
    save_file(small["vit"] | extra, tmp_path / "w.safetensors")
    with refused(ModelError, kind="unexpected_tensors"):
        load_described("vit", tmp_path / "w.safetensors")


# ---- paths that are not weight files ----


def test_paths_that_are_not_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "empty").touch()
    names = ["pipe", "link", "dangling", ".", "empty", "pipe/w.pt", "x" * 300, "a\0b"]
    for address in [*(str(tmp_path / name) for name in names), "/dev/zero", "/dev/stdin", "~nobody-of-this-name/w.pt"]:
        with pytest.raises(ModelError) as caught:
            load_backbone("vit", address)
        assert caught.value.kind in ("missing_file", "unreadable_weights")
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "address", ["asset:no.pt", "asset:../pyproject.toml", "asset:", "clip:", "timm:", "open_clip:", "hf-hub:"]
)
def test_odd_addresses_are_refused(address):
    with pytest.raises(ModelError):
        load_backbone("vit", address)
