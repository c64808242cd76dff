"""The module of another library that equals a backbone: timm's for an image tower, open_clip's with a text tower."""

import dataclasses
from typing import Any

from torch import nn

from models.backbones.backbone import Backbone, BackboneConfig
from models.backbones.families import open_clip, timm_resnet, timm_vit
from models.backbones.resnet import ResNetConfig
from models.weights.descriptions import Description, describe_open_clip, describe_timm
from models.weights.find import OPEN_CLIP_JSON, TIMM_JSON
from utils.errors import ModelError

POOLS = {"token": "token", "mean": "avg", "attention": "map"}  # native names of poolings -> timm's


@dataclasses.dataclass(frozen=True)
class Upstream:
    """library: "timm" or "open_clip". model: the architecture, as its JSON describes it; see Description.upstream."""

    library: str
    model: dict[str, Any]

    @property
    def name(self) -> str:
        """The name for messages."""
        return "open_clip's model" if self.library == "open_clip" else f"timm's {self.model['architecture']}"

    @property
    def files(self) -> tuple[str, str]:
        """The names of weights and JSON in a folder that the library loads: local-dir:FOLDER, hf-hub:OWNER/NAME."""
        if self.library == "open_clip":
            return "open_clip_model.safetensors", OPEN_CLIP_JSON
        return "model.safetensors", TIMM_JSON

    def content(self, backbone: Backbone, interpolation: str, resize: str) -> dict[str, Any]:
        """The content of that JSON. interpolation, resize: of the test crops, as in the configuration."""
        mean, std = backbone.normalisation
        resolution = backbone.image.resolution
        images: dict[str, Any] = {"mean": list(mean), "std": list(std), "interpolation": interpolation}
        if self.library == "open_clip":
            return self.model | {"preprocess_cfg": images | {"size": resolution, "resize_mode": resize}}
        images |= {"input_size": [3, resolution, resolution], "fixed_input_size": True, "crop_pct": 1.0}
        images |= {"crop_mode": "squash" if resize == "squash" else "center", "num_classes": 0}
        return self.model | {"num_classes": 0, "num_features": backbone.image.dim, "pretrained_cfg": images}

    def build(self) -> nn.Module:
        """The module with random weights, on the CPU."""
        if self.library == "timm":
            import timm  # heavy: imported where it is used

            options = self.model["model_args"]
            return timm.create_model(self.model["architecture"], pretrained=False, num_classes=0, **options).eval()
        from open_clip.model import CLIP, CustomTextCLIP

        options = dict(self.model["model_cfg"])
        kind = CustomTextCLIP if options.pop("custom_text", False) else CLIP
        return kind(**options).eval()


def upstream_of(config: BackboneConfig, known: Description) -> Upstream:
    """The module of `config`. known: the description of the backbone's weights.

    It is the library's published one, or else one of its plain forms, if that has this config. Raises ModelError if
    neither has, as for other activations, or a resolution at which open_clip does not build a tower of timm.
    """
    # a ResNet without an attention pool accepts any size, and its description has timm's
    resolution = config.image.resolution if config.image.cell > 1 else timm_resnet.RESOLUTION
    wanted = dataclasses.replace(config, image=config.image.at(resolution))
    for model in (known.upstream, _plain(config)):
        if model is None:
            continue
        upstream = _at_resolution(model, config)
        if _config_of(upstream) == wanted:
            return upstream
    library = "open_clip" if config.text else "timm"
    message = (
        f"{library} has no model that computes as this backbone at {config.image.resolution} pixels; export to onnx "
        "or torch"
    )
    raise ModelError(message, kind="no_upstream_model")


def _plain(config: BackboneConfig) -> dict[str, Any]:
    if config.text is not None:
        return {"model_cfg": open_clip.model_cfg(config)}
    if isinstance(config.image, ResNetConfig):
        return timm_resnet.plain_terms(config.image)
    return timm_vit.plain_terms(config.image)


def _at_resolution(model: dict[str, Any], config: BackboneConfig) -> Upstream:
    """The architecture for images of the config's size, with the config's pooling."""
    image = config.image
    if "model_cfg" in model:
        inner = model["model_cfg"]
        vision = inner["vision_cfg"] | {"image_size": image.resolution}
        return Upstream("open_clip", {"model_cfg": inner | {"vision_cfg": vision}})
    if isinstance(image, ResNetConfig):
        return Upstream("timm", model)
    options = model["model_args"] | {"img_size": image.resolution, "global_pool": POOLS[image.pooling.kind]}
    options.pop("num_classes", None)
    return Upstream("timm", model | {"model_args": options})


def _config_of(upstream: Upstream) -> BackboneConfig | None:
    if upstream.library == "open_clip":
        return describe_open_clip(upstream.model["model_cfg"], {}, "open_clip").config
    return describe_timm(upstream.model["architecture"], {}, "timm", upstream.model["model_args"]).config
