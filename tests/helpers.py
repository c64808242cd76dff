"""Shared by tests: other packages' towers with random weights, images, and a web server on 127.0.0.1."""

import contextlib
import copy
import functools
import http.server
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cases
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.weights.descriptions import Description
from models.weights.load import load_backbone

HALF = (0.5, 0.5, 0.5)
GIVEN = {  # by family, properties that the tensors of the small models below do not determine
    "clip_vit": Description("quick_gelu", heads=2, mean=HALF, std=HALF),
    "clip_rn": Description("quick_gelu", mean=HALF, std=HALF),
    "vit": Description("gelu", heads=2, mean=HALF, std=HALF),
    "rn": Description(mean=HALF, std=HALF),
}
CLIP_DIM, CLIP_DEPTH, CLIP_PATCH, CLIP_RESOLUTION, CLIP_JOINT = 128, 3, 16, 64, 48
TEXT_DIM, TEXT_DEPTH = 64, 2
STAGES, WIDTH, RESNET_RESOLUTION = (1, 2, 1, 1), 8, 96
SMALL_METHODS = {  # for a tiny tower, one method of each kind
    "adaptformer": {"adaptformer_dim": 2},
    "lora": {"lora_dim": 2},
    "aft": {"aft_ratio": 0.1, "aft_loc": "all", "aft_seed": 0},
    "pt": {"pt_len": 3},
    "ssf": {"ssf_loc": "all"},
}


@torch.no_grad()
def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every parameter a random value of sensible size, so that none is zero, one or a copy of another.

    BatchNorm's statistics, too.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
        parameter.copy_(noise / fan_in**0.5 + (parameter.ndim < 2 and name.endswith(("weight", "scale"))))
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.2, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            norm.num_batches_tracked.fill_(7)
    return module


def copied(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A function that builds a module once for its arguments, and returns copies."""
    built = functools.cache(build)
    return functools.wraps(build)(lambda *args, **options: copy.deepcopy(built(*args, **options)))


@copied
def open_clip_model(seed: int = 0) -> nn.Module:
    """open_clip's own CLIP: two heads and 17 tokens in the image tower, one head in the text tower, quick GELU."""
    from open_clip.model import CLIP

    vision = {"image_size": CLIP_RESOLUTION, "layers": CLIP_DEPTH, "width": CLIP_DIM, "patch_size": CLIP_PATCH}
    text = {"context_length": 77, "vocab_size": 49408, "width": TEXT_DIM, "heads": 1, "layers": TEXT_DEPTH}
    return randomize(CLIP(CLIP_JOINT, vision, text, quick_gelu=True), seed).eval()


@copied
def timm_model(seed: int = 0) -> nn.Module:
    """timm's own VisionTransformer with a classifier of 5: two heads, 17 tokens."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=64, patch_size=16, embed_dim=128, depth=3, num_heads=2, num_classes=5)
    return randomize(model, seed).eval()


@copied
def open_clip_resnet(seed: int = 0) -> nn.Module:
    """open_clip's own CLIP with a ResNet of 5 blocks: four heads and 10 tokens in its attention pool, quick GELU."""
    from open_clip.model import CLIP

    vision = {"image_size": RESNET_RESOLUTION, "layers": STAGES, "width": WIDTH, "patch_size": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": TEXT_DIM, "heads": 1, "layers": TEXT_DEPTH}
    return randomize(CLIP(CLIP_JOINT, vision, text, quick_gelu=True), seed).eval()


@copied
def timm_resnet(seed: int = 0) -> nn.Module:
    """timm's own ResNet of 5 blocks with a classifier of 5."""
    from timm.models.resnet import Bottleneck, ResNet

    channels = tuple(WIDTH * 2**i for i in range(4))
    return randomize(ResNet(Bottleneck, STAGES, num_classes=5, channels=channels), seed).eval()


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a model, contiguous, as in a weight file."""
    return {name: value.detach().contiguous() for name, value in model.state_dict().items()}


def clip_pair(folder) -> tuple[nn.Module, nn.Module]:
    """open_clip's CLIP, and the backbone loaded from a file of its weights."""
    return _pair(open_clip_model(), "clip_vit", folder)


def vit_pair(folder) -> tuple[nn.Module, nn.Module]:
    """timm's VisionTransformer, and the backbone loaded from a file of its weights."""
    return _pair(timm_model(), "vit", folder)


def clip_resnet_pair(folder) -> tuple[nn.Module, nn.Module]:
    """open_clip's CLIP with a ResNet, and the backbone loaded from a file of its weights."""
    return _pair(open_clip_resnet(), "clip_rn", folder)


def resnet_pair(folder) -> tuple[nn.Module, nn.Module]:
    """timm's ResNet, and the backbone loaded from a file of its weights."""
    return _pair(timm_resnet(), "rn", folder)


def _pair(theirs: nn.Module, name: str, folder) -> tuple[nn.Module, nn.Module]:
    save_file(weights_of(theirs), folder / f"{name}.safetensors")
    return theirs, load_backbone(name, str(folder / f"{name}.safetensors"), GIVEN[name])[0]


def vit(dim: int, depth: int, patch: int, resolution: int, clip: bool) -> nn.Module:
    """An image tower in CLIP's form or in timm's."""
    from models.backbones.families.clip import clip_vit
    from models.backbones.families.timm_vit import plain_vit

    sizes = (dim, depth, patch, resolution)
    return (clip_vit(*sizes, joint=8, text_dim=8, text_depth=1) if clip else plain_vit(*sizes)).image.build()


def resnet(stages: tuple[int, ...], width: int, resolution: int, joint: int = 0) -> nn.Module:
    """An image tower in CLIP's form, with `joint`, or in ImageNet's."""
    from models.backbones.resnet import ResNetConfig

    return ResNetConfig(stages, width, resolution, joint).build()


def image_tower(depth: int = 4, **methods) -> nn.Module:
    """A small image tower for 32 pixels, 17 tokens, with methods given by their keys; it trains."""
    from models import peft

    torch.manual_seed(0)
    tower = vit(64, depth, 8, 32, True)
    peft.attach(tower, peft.methods_from_keys(methods), num_classes=10)
    return tower.train()


def normal_images(count: int, resolution: int, seed: int = 0) -> torch.Tensor:
    """Normalised images [count, 3, resolution, resolution], float32."""
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(seed))


def photograph(name: str = "china.jpg") -> np.ndarray:
    """A real photograph, uint8 [427, 640, 3]."""
    from sklearn.datasets import load_sample_image

    return load_sample_image(name)


def levels_apart(a: torch.Tensor, b: torch.Tensor) -> int:
    """The largest difference of two images of one shape, in grey levels."""
    assert a.shape == b.shape
    return int((a.int() - b.int()).abs().max())


def moved(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on a device: itself on the CPU, else a copy, as tests share their modules."""
    return module if device.type == "cpu" else copy.deepcopy(module).to(device)


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to `tolerance` of the largest value; ten times as much for numbers of a GPU, which come to the CPU."""
    if found.device != expected.device:
        found, tolerance = found.cpu(), 10 * tolerance
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@contextlib.contextmanager
def time_limit(seconds: float):
    """Fails if the block takes longer, as it may wait forever."""

    def fail(*_: object) -> None:
        raise AssertionError(f"still waiting after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_running(pid) -> bool:
    """Whether there is such a process, and it is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def web_server(files: dict[str, bytes], headers: dict[str, str] | None = None, missing: int = 404, etag=None):
    """Serves {"/path": content} on 127.0.0.1 while the context lasts; yields (address, the list of paths asked for).

    missing: the status of the answer for other paths. etag: a function of the content.
    """
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            asked.append(path)
            content = files.get(path, b"")
            self.send_response(200 if path in files else missing)
            more = {"ETag": f'"{etag(content)}"'} if etag else {}
            for name, value in {"Content-Length": str(len(content)), **(headers or {}), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with served(Handler) as address:
        yield address, asked


@contextlib.contextmanager
def served(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answers requests on 127.0.0.1 while the context lasts; yields the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def private_hub(monkeypatch, folder: Path) -> Callable[[str], None]:
    """Sets empty caches in a folder for the hub's client and this program; returns use(address of the hub)."""
    from huggingface_hub import constants

    from models.weights import find

    def use(address: str) -> None:
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(find, "OPENAI_CACHE", folder / "clip")
    return use


def execute(trainer) -> dict:
    """Runs a trainer by its configuration, closes it, and returns the content of the results file."""
    from trainer import MODES

    with trainer:
        return MODES[trainer.mode.name](trainer)


def train(cfg):
    """Runs `cfg`; returns the trainer and its results."""
    from trainer import Trainer

    trainer = Trainer(cfg, "python main.py")
    return trainer, execute(trainer)


def weights(run) -> dict[str, torch.Tensor]:
    """Copies of a trainer's trainable parameters, by name."""
    from utils.run import checkpoint

    return {name: tensor.detach().clone() for name, tensor in checkpoint.trainable_tensors(run.model).items()}


# ---- errors: fields in the tests, messages in one golden file ----

MESSAGES = Path(__file__).with_name("messages.json")
TEMPORARY = re.compile(r"/\S*?/pytest-of-\w+/pytest-\d+/(?:popen-gw\d+/)?[^/'\s,;:)]+")  # folders of tests
UPDATED: dict[str, str] = {}  # messages seen in this session, by test; written by --update-messages (conftest.py)
COLLECTED: set[str] = set()  # all tests that were collected (conftest.py)


@contextlib.contextmanager
def refused(error: type[Exception], **fields):
    """Checks that the block raises `error` with these fields (kind=, path=, line=, key=) and the text in messages.json.

    pytest --update-messages writes the texts of the tests that run.
    """
    with pytest.raises(error) as caught:
        yield caught
    found = {name: getattr(caught.value, name) for name in fields}
    assert found == {name: os.fspath(v) if isinstance(v, Path) else v for name, v in fields.items()}, caught.value
    said(str(caught.value))


def said(message: str) -> None:
    """Compares a message with the one in messages.json for the running test; see `refused`."""
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
    count = sum(name == test or name.startswith(f"{test} #") for name in UPDATED)
    test = f"{test} #{count + 1}" if count else test
    UPDATED[test] = re.sub(r"127\.0\.0\.1:\d+", "HOST", TEMPORARY.sub("TMP", message))
    if not os.environ.get("UPDATE_MESSAGES"):
        assert UPDATED[test] == _messages().get(test), "other words: if they are better, pytest --update-messages"


def assert_one_sentence(error: str, start: str = "error: ") -> None:
    """Checks the output of a command with wrong input: one line, the text in messages.json."""
    assert error.startswith(start)
    assert len(error.splitlines()) == 1
    said(error.rstrip())


def owner_of(key: str) -> str:
    """The test of a key of messages.json: "TEST", "TEST #2", ..."""
    return re.sub(r" #\d+$", "", key)


def stale_messages(arguments: list[str]) -> list[str]:
    """The keys of messages.json whose test is gone: its file, or the test from a file that was collected as a whole.

    arguments: pytest's; with a FILE::TEST among them, no file counts as collected. Without --cases full, a test has the
    messages of all its cases.
    """
    whole = set() if any("::" in text for text in arguments) else {test.partition("::")[0] for test in COLLECTED}

    def name(test: str) -> str:
        return test if cases.FULL else test.partition("[")[0]

    there = {name(test) for test in COLLECTED}

    def is_stale(key: str) -> bool:
        file = key.partition("::")[0]
        return not (MESSAGES.parents[1] / file).exists() or (file in whole and name(owner_of(key)) not in there)

    return [key for key in _messages() if is_stale(key)]


@functools.cache
def _messages() -> dict[str, str]:
    return json.loads(MESSAGES.read_text(encoding="utf-8"))
