"""scripts/export.py: a trained run, exported, checked by the other program, and uploaded to a hub on 127.0.0.1."""

import base64
import contextlib
import dataclasses
import http.server
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import open_clip
import pytest
import torch
import yaml
from helpers import assert_one_sentence, photograph, private_hub, refused, served
from PIL import Image
from safetensors.torch import load_file

from datasets.sets import digits_lt
from models import load_run
from models.export import comparison
from trainer import run as train
from utils.adjustment import Adjustment, write_adjustment
from utils.config import load_config
from utils.errors import DataError, ModelError
from utils.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
export, sharing = (importlib.import_module(name) for name in ("export", "sharing"))

MERGED = ("open_clip_model.safetensors", "open_clip_config.json", "head.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A LoRA run of clip_tiny on the digits, one epoch."""
    path = tmp_path_factory.mktemp("runs") / "lora"
    options = ["num_epochs", 1, "output_dir", path, "prec_train", "fp32", "prec_test", "fp32", "num_workers", 0]
    train(load_config("digits_lt", "clip_tiny", "lora", [str(option) for option in (*options, "feature_cache", False)]))
    return path


@pytest.fixture(scope="module")
def short_run(random_clip, tmp_path_factory):
    """A LoRA run of two random blocks: a third of clip_tiny's, as torch takes seconds to trace them."""
    path = tmp_path_factory.mktemp("runs") / "short"
    options = ["num_epochs", 2, "output_dir", path, "prec_train", "fp32", "prec_test", "fp32", "num_workers", 0]
    options += ["weights", random_clip, "feature_cache", False]
    train(load_config("digits_lt", "clip_vit", "lora", [str(option) for option in options]))
    return path


@pytest.fixture(scope="module")
def onnx_folder(short_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    assert export.main([str(short_run), "--to", "onnx", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def digits():
    """The cropped test images, as a user of the model reads them: uint8 [n, 3, 32, 32]; and the labels."""
    images = digits_lt.build().test
    resized = torch.nn.functional.interpolate(
        torch.stack([images.images.read(index) for index in range(len(images))]),
        (36, 36),
        mode="bicubic",
        antialias=True,
    )
    return resized[:, :, 2:34, 2:34].numpy(), images.labels


def export_to(format, run, folder, *more):
    return export.main([str(run), "--to", format, "--out", str(folder), *more])


# ---- onnx ----


@pytest.mark.slow
def test_onnxruntime_has_the_accuracy_of_the_runs_test(short_run, onnx_folder, digits):
    pixels, labels = digits
    session = onnxruntime.InferenceSession(str(onnx_folder / "model.onnx"), providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(None, {"images": pixels})
    results = json.loads((short_run / "results.json").read_text())
    assert 100 * np.mean(logits.argmax(1) == labels) == pytest.approx(results["accuracy"]["overall"], abs=0.21)
    exponentials = np.exp(logits.astype(np.float64))
    assert np.abs(exponentials / exponentials.sum(1, keepdims=True) - probabilities).max() < 1e-6


@pytest.mark.slow
def test_model_json_describes_the_run(short_run, onnx_folder):
    about = json.loads((onnx_folder / "model.json").read_text())
    data = digits_lt.build()
    assert about["classes"] == data.classnames
    assert about["training_images"] == data.class_counts.tolist()
    assert set(about["shot_groups"]) == {"many", "medium", "few"}
    shown = {key: about["images"][key] for key in ("resolution", "resized_to", "rule", "interpolation")}
    assert shown == {"resolution": 32, "resized_to": 36, "rule": "shortest", "interpolation": "bicubic"}
    assert about["images"]["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert list(about["methods"]["image tower"]) == ["lora"]
    assert about["backbone"]["name"] == "clip_vit"
    assert about["checkpoint"] == json.loads((short_run / "results.json").read_text())["checkpoint"]
    assert about["versions"]["lift_plus"] == VERSION
    assert about["checked_on"] == "32 test images"
    assert str(short_run.parent) not in json.dumps(about)


def predict_onnx(folder, *paths):
    """The output of predict_onnx.py, run without torch and the product: for each picture, {class: probability}."""
    blocked = "torch", "torchvision", "timm", "open_clip", "models", "datasets", "utils"
    program = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({blocked})); sys.argv = {['', *map(str, paths)]}; "
        f"runpy.run_path({str(folder / 'predict_onnx.py')!r}, run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(path) for path in paths]
    assert {len(line) for line in lines} == {6}
    return [{name: float(p) for name, p in (each.rsplit(" ", 1) for each in line[1:])} for line in lines]


@pytest.mark.slow
def test_predict_onnx_needs_no_torch_and_agrees_with_the_run(short_run, onnx_folder, tmp_path):
    picture = Image.fromarray(photograph())
    paths = [tmp_path / "wide.png", tmp_path / "tall and grey.jpg", tmp_path / "16 bits.png"]
    picture.save(paths[0])
    picture.rotate(90, expand=True).convert("L").save(paths[1], quality=95)
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(paths[2])
    found = predict_onnx(onnx_folder, *paths)
    for probabilities, expected in zip(found, load_run(short_run, "cpu").predict(paths), strict=True):
        for ranked in expected.top[:2]:
            assert probabilities[ranked.classname] == pytest.approx(ranked.probability, abs=0.02)  # Pillow's arithmetic


@pytest.mark.slow
def test_predict_onnx_turns_and_squashes_as_model_json_says(short_run, onnx_folder, tmp_path):
    folder = shutil.copytree(onnx_folder, tmp_path / "export")
    about = json.loads((folder / "model.json").read_text())
    about["images"] |= {"rule": "squash", "exif_orientation": True}
    (folder / "model.json").write_text(json.dumps(about))
    picture = Image.fromarray(photograph("flower.jpg"))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees, clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    (found,) = predict_onnx(folder, tmp_path / "turned.png")

    pixels = torch.from_numpy(np.array(picture.rotate(-90, expand=True))).permute(2, 0, 1)
    predictor = load_run(short_run, "cpu", precision="fp32")
    crops = dataclasses.replace(predictor.crops, resize="squash")
    with torch.no_grad():
        expected = predictor.model(crops(pixels)).softmax(1)[0]
    best = int(expected.argmax())
    assert found[predictor.classnames[best]] == pytest.approx(float(expected[best]), abs=0.01)
    with torch.no_grad():
        other = predictor.model(predictor.crops(pixels)).softmax(1)[0]
    assert abs(float(other[best] - expected[best])) > 0.02  # another rule would be seen


# ---- torch and merged ----


def test_a_program_of_torch_runs_alone_and_adjusts(short_run, tmp_path, digits):
    copy = shutil.copytree(short_run, tmp_path / "copy")
    write_adjustment(copy / "adjustment.json", Adjustment(2.0, None, np.linspace(-1, 1, 10), zero_shot=True))
    assert export_to("torch", copy, tmp_path / "export") == 0
    pixels = torch.from_numpy(digits[0][:20])
    logits, probabilities = torch.export.load(tmp_path / "export" / "model.pt2").module()(pixels)
    predictor = load_run(copy, "cpu")
    with torch.no_grad():
        expected = predictor.model(pixels) + torch.linspace(-1, 1, 10) + predictor.zero_shot().model(pixels)
    assert (logits - expected).abs().max() < 1e-4
    assert (probabilities - (expected / 2).softmax(1)).abs().max() < 1e-5
    about = json.loads((tmp_path / "export" / "model.json").read_text())
    assert about["adjustment"] == {
        "temperature": 2.0,
        "scale": None,
        "bias": np.linspace(-1, 1, 10).tolist(),
        "zero_shot": True,
    }
    assert "the logits are adjusted" in (tmp_path / "export" / "README.md").read_text()


def test_a_merged_clip_and_its_head_give_the_runs_logits(run, tmp_path, digits):
    folder = tmp_path / "merged"
    assert export_to("merged", run, folder) == 0
    clip = open_clip.create_model(f"local-dir:{folder}").eval()
    about = json.loads((folder / "model.json").read_text())
    assert (about["backbone"]["name"], about["backbone"]["licence"]) == ("clip_tiny", "mit")
    head = load_file(folder / "head.safetensors")
    images = torch.from_numpy(digits[0][:20])
    mean, std = (torch.tensor(about["images"][key]).view(3, 1, 1) for key in ("mean", "std"))
    clip.visual.proj = None  # the head reads the feature before CLIP's projection
    with torch.no_grad():
        features = torch.nn.functional.normalize(clip.encode_image((images / 255 - mean) / std), dim=-1)
        logits = head["scale"] * features @ torch.nn.functional.normalize(head["weight"], dim=-1).T
        expected = load_run(run, "cpu").model(images)
    assert (logits - expected).abs().max() < 1e-4


# ---- refusals ----


def test_a_deviation_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(comparison.FEATURE_BOUNDS, "fp32", -1.0)
    assert export_to("merged", run, tmp_path / "export") == 1
    assert "where -1 is allowed; nothing was exported" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_only_an_earlier_export_is_replaced(run, tmp_path, capsys):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model.json").write_text('{"program": "LIFT+"}')
    (folder / "model.onnx").touch()
    (folder / "my notes.txt").write_text("for me")
    assert export_to("merged", run, folder) == 2
    assert_one_sentence(error := capsys.readouterr().err)
    assert "(my notes.txt)" in error
    (folder / "my notes.txt").unlink()
    assert export_to("merged", run, folder) == 0
    assert {path.name for path in folder.iterdir()} == {*MERGED, "model.json", "README.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    capsys.readouterr()

    for content in ('{"program": "another"}', "[]", "not JSON"):
        (folder / "model.json").write_text(content)
        assert export_to("merged", run, folder) == 2
        assert_one_sentence(capsys.readouterr().err)
    assert (folder / "model.json").read_text() == "not JSON"
    (folder / "model.json").unlink()
    assert export_to("merged", run, folder) == 2
    assert_one_sentence(capsys.readouterr().err)


def test_the_working_directory_is_not_replaced(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in (".", ".."):
        assert export_to("merged", run, folder) == 2
        assert_one_sentence(capsys.readouterr().err)


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert export_to("merged", tmp_path / "nothing", tmp_path / "export") == 2
    assert_one_sentence(capsys.readouterr().err)


def test_a_copy_whose_data_is_elsewhere_is_compared_on_random_images(run, tmp_path, monkeypatch, capsys):
    def fail(cfg):
        raise DataError("the folder data is missing", kind="no_folder")

    monkeypatch.setattr("exporting.build_data", fail)
    copy = shutil.copytree(run, tmp_path / "copy")
    assert export.main([str(copy), "--to", "merged"]) == 0
    out = capsys.readouterr().out
    assert "comparing on 32 random images: the test images cannot be read (the folder data is missing)" in out
    about = json.loads((copy / "export_merged_fp32" / "model.json").read_text())
    assert about["checked_on"] == "32 random images"


# ---- upload ----


@contextlib.contextmanager
def hub(status=200):
    """A hub on 127.0.0.1 that takes commits; yields its address, and (method and path, body, token) as they arrive."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append((f"{self.command} {self.path.partition('?')[0]}", body, self.headers.get("Authorization")))
            page = f"http://{self.headers['Host']}/me/digits"
            answer = {"url": page, "commitUrl": f"{page}/commit/0", "commitOid": "0" * 40}
            if self.path.endswith("/preupload/main"):
                names = [file["path"] for file in json.loads(body)["files"]]
                answer = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
            content = json.dumps(answer | {"errors": [], "warnings": []}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *args):
            pass

    with served(Handler) as address:
        yield address, requests


@pytest.fixture
def use_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return private_hub(monkeypatch, tmp_path)


def test_an_export_is_uploaded_with_its_card(run, tmp_path, use_hub, capsys):
    folder = tmp_path / "export"
    with hub() as (address, requests):
        use_hub(address)
        assert export_to("merged", run, folder, "--push", "me/digits", "--private") == 0
    assert f"uploaded  {address}/me/digits" in capsys.readouterr().out
    tokens = {token for path, _, token in requests if path.endswith(("create", "main"))}
    assert tokens == {"Bearer hf_secret"}
    (created,) = [json.loads(body) for path, body, _ in requests if path == "POST /api/repos/create"]
    assert (created["name"], created["organization"]) == ("digits", "me")
    assert created.get("private") or created.get("visibility") == "private"
    (commit,) = [body for path, body, _ in requests if path == "POST /api/models/me/digits/commit/main"]
    lines = [json.loads(line) for line in commit.splitlines()]
    files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
    assert {name: base64.b64decode(content) for name, content in files.items()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }

    # the card
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "pipeline_tag": "image-classification",
        "library_name": "open_clip",
        "license": "mit",
        "tags": ["image-classification", "long-tailed-recognition"],
    }
    accuracy = json.loads((run / "results.json").read_text())["accuracy"]
    assert f"| {accuracy['overall']:.2f} | {accuracy['mean_class']:.2f} | {accuracy['many']:.2f} |" in text
    assert "`clip_tiny`" in text
    assert "`lora` (image tower)" in text


REFUSALS = {
    "no token": ("me/digits", "no_token"),
    "refused": ("me/digits", "push_refused"),
    "no network": ("me/digits", "push_failed"),
    "no such name": ("me/a/b", "bad_repository"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_upload_that_fails_is_one_sentence(case, use_hub, monkeypatch, tmp_path):
    name, kind = REFUSALS[case]
    with hub(status=403) as (address, requests):
        use_hub("http://127.0.0.1:9" if case == "no network" else address)
        if case == "no token":
            monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        with refused(ModelError, kind=kind):
            sharing.push(tmp_path, name, private=False)
    assert bool(requests) == (case == "refused")
