"""The model card of an export, and its upload to the Hugging Face hub, for scripts/export.py."""

import json
from pathlib import Path
from typing import Any

from utils.errors import ModelError
from utils.text import visible

# licences with an identifier on the hub; others are "other", with a name
LICENCES = {"mit", "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "bsd-3-clause"}
LIBRARIES = {"onnx": "onnx", "torch": "pytorch", "timm": "timm", "open_clip": "open_clip"}
USAGE = {
    "onnx": "python predict_onnx.py PICTURES...        # needs onnxruntime, numpy and Pillow",
    "torch": 'logits, probabilities = torch.export.load("model.pt2").module()(images)  # uint8 [B, 3, R, R]',
    "timm": 'model = timm.create_model("local-dir:FOLDER", pretrained=True)  # or hf-hub:OWNER/NAME',
    "open_clip": 'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")  # or hf-hub:...',
}
GROUPS = ("overall", "mean_class", "many", "medium", "few")
FORBIDDEN = (401, 403)


# ---- model card ----

CARD = """\
---
{head}
tags:
- image-classification
- long-tailed-recognition
---

# {name}

An image classifier for {num_classes} classes, exported as {format} in {precision}.

## Training

- backbone: `{backbone}`, weights `{weights}`
- methods: {methods}; head: `{classifier}`
- data: {data}{counts}
{adjustment}
{accuracy}
## Limits

- Every picture is assigned one of these classes, even if it shows none of them.
- Classes with few training images are recognised less reliably than the overall accuracy suggests.
- {licence}

## Use

```
{usage}
```

Images are RGB of {resolution} pixels. `model.json` has the class names and how an image is resized.
"""


def model_card(about: dict[str, Any], results: dict[str, Any]) -> str:
    """The text of README.md: a head for the hub, training, accuracy, limits and use. about: content of model.json."""
    backbone, counts = about["backbone"], about["training_images"]
    methods = [f"`{name}` ({part})" for part, found in about["methods"].items() for name in found]
    span = f", {sum(counts):,} training images, {min(counts):,} to {max(counts):,} per class" if counts else ""
    known = "The licence of the weights applies." if backbone["licence"] else "The licence of the weights is unknown."
    named = {"name": about["run"], "backbone": backbone["name"], "weights": backbone["weights"]}
    named["data"] = results.get("data", {}).get("name") or "not recorded"
    return CARD.format(
        head="\n".join(f"{key}: {json.dumps(value)}" for key, value in _head(about).items()),
        **{field: visible(text) for field, text in named.items()},
        num_classes=f"{len(about['classes']):,}",
        format=about["format"],
        precision=about["precision"],
        methods=", ".join(methods) or "none",
        classifier=about["head"],
        counts=span,
        adjustment="- the logits are adjusted, as `model.json` describes\n" if about["adjustment"] else "",
        accuracy=_accuracy(results),
        licence=known,
        usage=USAGE[about["library"]],
        resolution=about["images"]["resolution"],
    )


def _head(about: dict[str, Any]) -> dict[str, str]:
    """The card's fields for the hub."""
    licence = about["backbone"]["licence"]
    head = {"pipeline_tag": "image-classification", "library_name": LIBRARIES[about["library"]]}
    if licence:
        head |= {"license": licence} if licence in LICENCES else {"license": "other", "license_name": licence}
    return head


def _accuracy(results: dict[str, Any]) -> str:
    """The table of a run's test; empty if it has none."""
    if "accuracy" not in results:
        return ""
    values = [results["accuracy"].get(group) for group in GROUPS]
    rows = (GROUPS, ["---:"] * len(GROUPS), ["-" if value is None else f"{value:.2f}" for value in values])
    lines = ["## Accuracy on the test images, %", "", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join([*lines, ""])


# ---- upload ----


def push(folder: Path, repository: str, private: bool) -> str:
    """Uploads a folder as the repository OWNER/NAME, which is created if it does not exist; returns its address.

    Raises ModelError if there is no token, or the hub refuses it or does not answer.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    stays = f"the exported files stay in {folder}"
    if get_token() is None:
        message = "uploading needs a token of the hub; set HF_TOKEN, or log in with the hub's client"
        raise ModelError(f"{message}; {stays}", kind="no_token")
    api = HfApi()
    try:
        page = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Upload a model")
    except HFValidationError as error:
        message = f"--push takes OWNER/NAME, found {repository}; correct it"
        raise ModelError(f"{message}; {stays}", kind="bad_repository") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        remedy = "check that the token may write there" if status in FORBIDDEN else "try again later"
        message = f"the hub refuses the upload to {repository} (HTTP {status}); {remedy}"
        raise ModelError(f"{message}; {stays}", kind="push_refused") from error
    except Exception as error:  # of the HTTP library, which differs between versions of the client
        reason = (str(error) or type(error).__name__).splitlines()[0]
        message = f"{repository} could not be uploaded to {api.endpoint} ({reason}); check the connection and try again"
        raise ModelError(f"{message}; {stays}", kind="push_failed") from error
    return str(page)
