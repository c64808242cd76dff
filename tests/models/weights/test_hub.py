"""Weights at hf-hub:OWNER/NAME: description first, either library's files, gated or missing repositories.

Checksums and connections that fail are in test_checksums.py, for all schemes.
"""

import contextlib
import hashlib
import json

import pytest
import timm
import torch
from helpers import assert_near, normal_images, private_hub, randomize, refused, web_server, weights_of
from open_clip.model import CLIP
from safetensors.torch import save

from models.weights import hub
from models.weights.find import find_description, find_weights
from models.weights.load import load_backbone
from utils.errors import ModelError

REPOSITORY = "owner/name"
ADDRESS = f"hf-hub:{REPOSITORY}"
OPEN_CLIP, TIMM = "open_clip_config.json", "config.json"
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
VISION = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8}
MODEL = {"embed_dim": 48, "vision_cfg": VISION, "text_cfg": TEXT}
HALF = [0.5, 0.5, 0.5]
COMMIT = "0123456789012345678901234567890123456789"


def path_of(file, repository=REPOSITORY):
    return f"/{repository}/resolve/main/{file}"


def etag(content):
    """As the hub's: a SHA-256 for large files, a SHA-1 for the JSON."""
    return hashlib.sha256(content).hexdigest() if len(content) > 4096 else hashlib.sha1(content).hexdigest()


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """serve({file: content}) -> a context in which a hub has REPOSITORY; yields the files asked for. Empty caches."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    use = private_hub(monkeypatch, tmp_path)

    @contextlib.contextmanager
    def start(files, code="EntryNotFound", missing=404, etag=etag):
        pages = {path_of(file): content for file, content in files.items()}
        headers = {"X-Repo-Commit": COMMIT, "X-Error-Code": code}
        with web_server(pages, headers, missing, etag) as (address, asked):
            use(address)
            yield asked

    return start


def names(asked):
    """The requested files, in order. The hub's client may send requests of its own."""
    return list(dict.fromkeys(path.rpartition("/")[2] for path in asked if "/resolve/" in path))


@pytest.fixture(scope="module")
def clip():
    """open_clip's own CLIP with random weights, and its files in a repository."""
    model = randomize(CLIP(MODEL["embed_dim"], VISION, TEXT)).eval()
    preprocess = {"mean": HALF, "std": HALF}
    content = json.dumps({"model_cfg": MODEL, "preprocess_cfg": preprocess}).encode()
    return model, {OPEN_CLIP: content, "open_clip_model.safetensors": save(weights_of(model))}


@pytest.fixture(scope="module")
def vit():
    """timm's own ViT with random weights, and its files in a repository."""
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2}
    model = randomize(timm.create_model("vit_base_patch16_224", num_classes=0, **args)).eval()
    content = {"architecture": "vit_base_patch16_224", "model_args": args, "num_classes": 0}
    content |= {"pretrained_cfg": {"mean": HALF, "std": HALF}}
    return model, {TIMM: json.dumps(content).encode(), "model.safetensors": save(weights_of(model))}


# ---- files ----


@torch.no_grad()
def test_repository_of_open_clip_gives_its_features(clip, serve):
    theirs, files = clip
    with serve(files | {TIMM: b'{"model_type": "clip"}'}) as asked:
        ours, found = load_backbone("clip_vit", ADDRESS)
    assert names(asked) == [OPEN_CLIP, "open_clip_model.safetensors"]
    assert (found.name, found.published) == (ADDRESS, False)
    images = normal_images(2, 32)
    assert_near(ours.image(images) @ ours.image_projection, theirs.encode_image(images))


@torch.no_grad()
def test_repository_of_timm_gives_its_features(vit, serve):
    theirs, files = vit
    with serve(files) as asked:
        ours, found = load_backbone("vit", ADDRESS)
    assert names(asked) == [OPEN_CLIP, TIMM, "model.safetensors"]
    assert found.name == ADDRESS
    images = normal_images(2, 32)
    assert_near(ours.image(images), theirs(images))


@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_cached_repository_needs_no_network(kind, serve, request):
    """Nor does the description that timm's repositories lack."""
    files = request.getfixturevalue(kind)[1]
    with serve(files):
        first = find_description(ADDRESS), find_weights(ADDRESS)
    assert (find_description(ADDRESS), find_weights(ADDRESS)) == first  # the server is off
    assert first[0].parent == first[1].path.parent


@pytest.mark.parametrize(
    ("description", "safe", "pickled"),
    [
        (OPEN_CLIP, "open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
        (TIMM, "model.safetensors", "pytorch_model.bin"),
    ],
)
def test_safetensors_is_preferred_to_pickles(description, safe, pickled, serve):
    with serve({description: b"{}", pickled: b"old"}):
        assert find_weights(ADDRESS).path.name == pickled
    with serve({description: b"{}", pickled: b"old", safe: b"new"}):
        hub.cached(REPOSITORY, pickled).unlink()
        assert find_weights(ADDRESS).path.read_bytes() == b"new"


def test_description_comes_before_the_weights(serve, clip):
    with serve(clip[1]) as asked:
        assert json.loads(find_description(ADDRESS).read_text())["model_cfg"] == MODEL
    assert names(asked) == [OPEN_CLIP]


def test_config_json_of_another_library_in_the_cache_hides_nothing(serve, clip):
    with serve({TIMM: b'{"model_type": "clip"}'}):
        assert hub.fetch_file(REPOSITORY, TIMM)
    with serve(clip[1] | {TIMM: b'{"model_type": "clip"}'}):
        assert find_description(ADDRESS).name == OPEN_CLIP


def test_copy_of_a_whole_repository_is_enough_offline(serve, vit):
    """A copy of the cache does not record the files that the repository lacks."""
    with serve(vit[1]):
        for file in vit[1]:
            hub.fetch_file(REPOSITORY, file)
    assert find_description(ADDRESS).name == TIMM  # the server is off
    assert find_weights(ADDRESS).path.name == "model.safetensors"


@pytest.mark.parametrize("files", [{}, {"README.md": b"x", "model.safetensors": b"x"}], ids=["empty", "no description"])
def test_repository_without_description_is_refused_before_its_weights(files, serve):
    with serve(files) as asked, refused(ModelError, kind="no_description", key="weights"):
        find_weights(ADDRESS)
    assert names(asked) == [OPEN_CLIP, TIMM]


def test_repository_without_weights_names_the_files(serve):
    with serve({OPEN_CLIP: b"{}"}), refused(ModelError, kind="no_weights", key="weights"):
        find_weights(ADDRESS)


def test_published_checksum_is_verified(serve, clip):
    with serve(clip[1]):
        assert find_weights(ADDRESS).record is None  # it is not needed


def test_weights_of_another_checksum_than_the_published_one_are_refused(serve, clip):
    wrong = {clip[1]["open_clip_model.safetensors"]: "0" * 64}
    with serve(clip[1], etag=lambda content: wrong.get(content, etag(content))), pytest.raises(ModelError) as caught:
        find_weights(ADDRESS)
    assert caught.value.kind == "wrong_checksum"


def test_weights_without_a_published_checksum_are_recorded(serve, clip, tmp_path):
    with serve(clip[1], etag=lambda content: hashlib.sha1(content).hexdigest()):
        load_backbone("clip_vit", ADDRESS)
    records = [json.loads(file.read_text()) for file in (tmp_path / "cache").rglob("*.json")]
    assert [record["address"] for record in records] == [ADDRESS]
    path = find_weights(ADDRESS).path
    path.resolve().write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelError) as caught:
        find_weights(ADDRESS)
    assert caught.value.kind == "wrong_checksum"


# ---- single files, such as a tokenizer's ----


def test_file_is_fetched_once(serve):
    with serve({"tokenizer.json": b"{}"}) as asked:
        path = hub.fetch_file(REPOSITORY, "tokenizer.json")
        assert path.read_bytes() == b"{}"
        asked.clear()
        assert hub.fetch_file(REPOSITORY, "tokenizer.json") == path
        assert names(asked) == []


def test_file_that_a_repository_lacks_is_asked_for_once(serve):
    with serve({}) as asked:
        assert hub.fetch_file(REPOSITORY, "tokenizer.json") is None
        asked.clear()
        assert hub.fetch_file(REPOSITORY, "tokenizer.json") is None
        assert names(asked) == []


# ---- gated and missing repositories ----

CLOSED = {  # of the hub's answers: status, X-Error-Code, kind of the error
    "gated, without a token": (401, "GatedRepo", "gated_repository"),
    "gated, licence not accepted": (403, "GatedRepo", "gated_repository"),
    "private or unknown, without a token": (401, "RepoNotFound", "unknown_repository"),
    "unknown, with a token": (404, "RepoNotFound", "unknown_repository"),
    "token without the permission": (403, "", "no_access"),
}
GATED = {  # address: its repository on the hub
    ADDRESS: REPOSITORY,
    "timm:vit_base_patch16_dinov3.lvd1689m": "timm/vit_base_patch16_dinov3.lvd1689m",
    "open_clip:ViT-B-16-SigLIP2/webli": "timm/ViT-B-16-SigLIP2",
}


@pytest.fixture
def no_waiting(monkeypatch):
    """Fails the test if the hub's client waits between attempts."""

    def sleep(seconds):
        raise AssertionError(f"waits {seconds} seconds for another attempt")

    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", sleep)


@pytest.mark.parametrize("answer", CLOSED)
def test_closed_repository_is_refused_with_a_remedy(answer, serve, no_waiting):
    status, code, kind = CLOSED[answer]
    with serve({}, code, status) as asked, refused(ModelError, kind=kind, key="weights"):
        find_weights(ADDRESS)
    assert names(asked) == [OPEN_CLIP]


@pytest.mark.parametrize("address", GATED)
def test_gated_weights_of_every_scheme(address, serve, no_waiting):
    with serve({}, "GatedRepo", 401), refused(ModelError, kind="gated_repository", key="weights") as caught:
        find_weights(address)
    assert f"/{GATED[address]}," in str(caught.value)
    assert all(word in str(caught.value) for word in ("licence", "HF_TOKEN", "weights FILE"))


def test_wrong_token_is_refused_with_a_remedy(serve, no_waiting, monkeypatch):
    headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
    with serve({}):
        pass  # an empty cache
    with web_server({}, headers, 401) as (address, _):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        with refused(ModelError, kind="no_access", key="weights"):
            find_weights(ADDRESS)


def test_token_of_the_user_is_sent(serve, clip, monkeypatch):
    import http.server

    sent = []
    send = http.server.BaseHTTPRequestHandler.send_response
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(
        http.server.BaseHTTPRequestHandler,
        "send_response",
        lambda self, code: (sent.append(self.headers["authorization"]), send(self, code)),
    )
    with serve(clip[1]):
        find_weights(ADDRESS)
    assert set(sent) == {"Bearer hf_secret"}


def test_gated_weights_in_a_file_need_no_hub(serve, vit, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(vit[1]["model.safetensors"])
    (tmp_path / TIMM).write_bytes(vit[1][TIMM])
    with serve({}, "GatedRepo", 401) as asked:
        load_backbone("vit", str(tmp_path / "w.safetensors"))
    assert names(asked) == []


@pytest.mark.parametrize("address", ["hf-hub:", "hf-hub:name", "hf-hub:a/b/c", "hf-hub:../a", "hf-hub:a/\x1b[31m"])
def test_malformed_addresses(address, serve):
    with serve({}) as asked, refused(ModelError, kind="bad_address", key="weights"):
        find_weights(address)
    assert names(asked) == []


def test_hub_that_does_not_answer(serve, no_waiting):
    with serve({}):
        pass  # off from here on
    with refused(ModelError, kind="download_failed", key="weights"):
        find_weights(ADDRESS)
