"""Shared fixtures: a tiny CLIP with random weights, and a way to train with it."""

import ctypes
import dataclasses
import gc
import json
import os

import cases
import fork_server
import helpers
import pytest
import torch

from datasets import DATASETS
from datasets.sets import digits_lt
from models.backbones.backbone import Backbone
from models.backbones.families.clip import clip_vit
from models.weights.descriptions import write_beside
from models.weights.naming import to_openai_names
from utils.config import load_config

torch.set_num_threads(1)  # the models are tiny, and machines that run tests are busy


def pytest_addoption(parser):
    parser.addoption("--update-messages", action="store_true", help="write tests/messages.json again for the tests run")
    parser.addoption("--cases", choices=["sample", "full"], default="sample", help="how many of tests/cases.py run")
    parser.addoption("--faults", choices=["sample", "full"], default="sample", help="how much tests/faults tries")
    parser.addoption("--faults-seed", type=int, default=0, help="of the random choices of tests/faults")


def pytest_configure(config):
    cases.FULL = config.getoption("--cases") == "full" or config.getoption("--update-messages")
    if config.getoption("--update-messages"):
        assert not config.getoption("numprocesses", None), "--update-messages runs in one process: leave -n out"
        os.environ["UPDATE_MESSAGES"] = "1"


def pytest_generate_tests(metafunc):
    """Runs each test of the fixture `device` on the CPU, and also on a GPU if there is one."""
    if "device" in metafunc.fixturenames and torch.cuda.is_available():
        metafunc.parametrize("device", ["cpu", "cuda"], indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collects no garbage during collection, and ignores its 700,000 objects, which all stay, afterwards.

    With huge pages for their memory, 1 GB, a worker starts in a third of the time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
        fork_server.use_huge_pages()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Records all collected tests, and marks those for a GPU, before -k and -m deselect some."""
    helpers.COLLECTED.update(item.nodeid for item in items)
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


def pytest_unconfigure():
    """Frees remaining objects at the end, as a library would report them otherwise."""
    gc.unfreeze()


def pytest_sessionfinish(session):
    """Writes the messages of the tests that ran; messages of other existing tests stay."""
    if session.config.getoption("--update-messages"):
        former = json.loads(helpers.MESSAGES.read_text(encoding="utf-8"))
        ran = {item.nodeid for item in session.items}
        stale = {*helpers.stale_messages(session.config.args), *(k for k in former if helpers.owner_of(k) in ran)}
        messages = {key: words for key, words in former.items() if key not in stale} | helpers.UPDATED
        text = json.dumps(dict(sorted(messages.items())), indent=0, ensure_ascii=False)
        helpers.MESSAGES.write_text(text + "\n", encoding="utf-8")


@pytest.fixture(autouse=True)
def no_gpu(request, monkeypatch):
    """Hides the GPU of this machine from all tests except those marked gpu, as they expect a CPU's results.

    Tests marked gpu use float32 without TF32, so that the tolerances of a CPU suffice.
    """
    if not torch.cuda.is_available():
        return
    on_cpu = getattr(request.node, "callspec", None) and request.node.callspec.params.get("device") == "cpu"
    if request.node.get_closest_marker("gpu") and not on_cpu:
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for programs that the test starts
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """os.fsync returns at once in this process, as no test ends the machine; it would be a part of every small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_memory_of_earlier_modules():
    """Returns the freed memory that runs retain: with it, each fork would take twice as long."""
    yield
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc
        trim(0)


@pytest.fixture
def device(request):
    """The device of a numerical test: the CPU, and on a machine with a GPU in a second run the GPU."""
    return torch.device(getattr(request, "param", "cpu"))


@pytest.fixture(scope="session")
def random_clip(tmp_path_factory):
    """A weight file in OpenAI's naming, for -b clip_vit: a CLIP of 2 blocks for 32 pixels, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random_clip.pt"
    geometry = clip_vit(128, 2, 16, 32, 64, 64, 2)
    torch.save(to_openai_names(Backbone(geometry).state_dict()), path)
    write_beside(path, geometry)
    return path


@pytest.fixture
def config(random_clip, tmp_path, monkeypatch):
    """config(KEY, VALUE, ...) -> digits_lt with the random CLIP in float32, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def make(*options, method="lift+"):
        base = ["weights", random_clip, "prec_train", "fp32", "prec_test", "fp32", "num_workers", 0, "num_epochs", 2]
        base += ["batch_size", 16, "print_freq", 10, "report", "False"]  # the reports of all runs would take a minute
        return load_config("digits_lt", "clip_vit", method, [str(o) for o in (*base, *options)])

    return make


@pytest.fixture
def few_images(monkeypatch):
    """Every fifth image of digits_lt: 69 to train with, 100 to test with."""
    data = digits_lt.build()
    train, test = (part.subset(slice(None, None, 5)) for part in (data.train, data.test))
    assert (len(train), len(test)) == (69, 100)
    monkeypatch.setitem(DATASETS, "digits_lt", lambda *_: dataclasses.replace(data, train=train, test=test))
