"""The rules between keys."""

import os
from typing import Any

from utils.config.schema import COUPLE_SAMPLES, KEYS, methods_of
from utils.errors import ConfigError


def check(values: dict[str, Any]) -> None:
    """The rules between keys. Raises ConfigError."""
    if values["batch_size"] % (values["accum_step"] or 1):
        raise ConfigError(
            f"accum_step must divide batch_size, found accum_step {values['accum_step']} "
            f"and batch_size {values['batch_size']}; choose, say, accum_step {_divisor(values)}"
        )
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if values["loss_type"] in COUPLE_SAMPLES and (values["accum_step"] != 1 or processes > 1):
        raise ConfigError(
            f"loss_type {values['loss_type']} compares the images of a whole step, "
            "so it takes accum_step 1 and one process",
            kind="needs_whole_batch",
            key="loss_type",
        )
    if values["v.bn_tuning"] and (values["accum_step"] != 1 or processes > 1):
        raise ConfigError(
            "v.bn_tuning normalises by the images of a whole step, so it takes accum_step 1 and one process; "
            f"found accum_step {values['accum_step']} and {processes} process{'es' if processes > 1 else ''}"
        )
    _check_what_trains(values)
    if values["std"] is not None and min(values["std"]) <= 0:
        raise ConfigError(f"std takes three numbers above 0, found {values['std']}")
    _check_prompt(values)


def _check_what_trains(values: dict[str, Any]) -> None:
    """Head, methods and text tower must fit together. Raises ConfigError."""
    switches = [name for name, key in KEYS.items() if key.kind == "bool" and values[name]]
    image = [name for name in switches if name.startswith("v.")]
    text = [name for name in switches if name.startswith("l.") or name in methods_of("head")]
    classifier = values["classifier"]
    if values["zero_shot"] and (classifier or image or text):
        extra = classifier or (image + text)[0]
        raise ConfigError(f"zero_shot trains nothing, but {extra} is set; leave one of the two out")
    if classifier and text:
        raise ConfigError(
            f"{text[0]} works on the class names' text features, which {classifier} does not read; "
            f"set classifier None, or leave {text[0]} out"
        )
    if not (values["zero_shot"] or classifier or image or text):
        raise ConfigError("nothing to train: set classifier, a method such as v.adaptformer True, or zero_shot True")
    if values["coop_init"] and (values["coop_ctx_len"], values["coop_cls_pos"]) != (4, "end"):
        raise ConfigError(
            "coop_init photo is the context of 'a photo of a NAME.', so it takes coop_ctx_len 4 and coop_cls_pos end; "
            f"found {values['coop_ctx_len']} and {values['coop_cls_pos']}"
        )


def _check_prompt(values: dict[str, Any]) -> None:
    """Prompts other than the default are for texts that do not train. Raises ConfigError."""
    prompt = values["prompt"]
    if (prompt == "descriptor") != (values["prompt_file"] is not None):
        raise ConfigError(
            f"prompt descriptor reads its sentences from prompt_file FILE, and no other prompt does; "
            f"found prompt {prompt} and prompt_file {values['prompt_file']}"
        )
    semantic = values["classifier"] and values["classifier_init"] == "semantic"
    if prompt != "default" and not (values["zero_shot"] or semantic):
        raise ConfigError(
            f"prompt {prompt} is for zero_shot and for a classifier with classifier_init semantic; leave prompt out"
        )


def _divisor(values: dict[str, Any]) -> int:
    """The divisor of batch_size nearest to accum_step."""
    size, parts = values["batch_size"], values["accum_step"]
    return min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: abs(n - parts))
