"""The rules between keys: one function per rule, which raises a ConfigError, and a table of all rules."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from utils.config.addresses import has_known_scheme, problem_of
from utils.config.schema import KEYS, LOSSES, PEFT, loss_key, methods_of
from utils.errors import ConfigError
from utils.ranks import num_processes
from utils.text import shortened

Values = dict[str, Any]  # of every key


def check(values: Values) -> None:
    """Applies all rules between keys, in their order. Raises ConfigError."""
    for rule in RULES:
        rule(values)


# ---- steps ----


def accum_step_divides_batch_size(values: Values) -> None:
    """Micro-batches have the same size."""
    size, count = values["batch_size"], values["accum_step"] or 1
    if size % count:
        divisor = min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: abs(n - count))
        message = (
            f"accum_step must divide batch_size, found accum_step {count} and batch_size {size}; "
            f"choose, say, accum_step {divisor}"
        )
        raise ConfigError(message, kind="accum_step_divides_batch_size", key="accum_step")


def some_runs_take_whole_batches(values: Values) -> None:
    """Losses that compare the images of a batch, and BatchNorm's statistics, do not allow micro-batches."""
    loss, count, processes = values["loss_type"], values["accum_step"], num_processes()
    needs = (
        (LOSSES[loss].couples_samples, "loss_type", f"loss_type {loss} compares"),
        (values["v.bn_tuning"], "v.bn_tuning", "v.bn_tuning normalises by"),
    )
    for applies, key, computes in needs:
        if applies and not count == processes == 1:
            message = (
                f"{computes} the images of a whole step, so it needs accum_step 1 and one process; "
                f"found accum_step {count} and {processes} process{'es' if processes > 1 else ''}"
            )
            raise ConfigError(message, kind="needs_whole_batches", key=key)


# ---- trainable parts ----


def zero_shot_trains_nothing(values: Values) -> None:
    """Zero-shot CLIP has neither a classifier nor a fine-tuning method."""
    image, text = _methods_in_use(values)
    found = next(filter(None, [values["classifier"], *image, *text]), None)
    if values["zero_shot"] and found:
        message = f"zero_shot does not train, but {found} is set; leave one of them out"
        raise ConfigError(message, kind="zero_shot_trains_nothing", key="zero_shot")


def classifier_reads_no_texts(values: Values) -> None:
    """Text-side methods need a head that uses text features."""
    _, text = _methods_in_use(values)
    if values["classifier"] and text:
        message = (
            f"{text[0]} works on the class names' text features, which {values['classifier']} does not use; "
            f"set classifier None, or leave {text[0]} out"
        )
        raise ConfigError(message, kind="classifier_reads_no_texts", key=text[0])


def something_trains(values: Values) -> None:
    """A run that is not zero-shot has a classifier or a method."""
    if not (values["zero_shot"] or values["classifier"] or any(_methods_in_use(values))):
        message = "nothing to train: set classifier, a method such as v.adaptformer True, or zero_shot True"
        raise ConfigError(message, kind="nothing_to_train")


def coop_init_fits_its_context(values: Values) -> None:
    """'a photo of a NAME.' has four tokens before the name."""
    if values["coop_init"] and (values["coop_ctx_len"], values["coop_cls_pos"]) != (4, "end"):
        message = (
            "coop_init photo is the context of 'a photo of a NAME.', so it needs coop_ctx_len 4 and coop_cls_pos end; "
            f"found coop_ctx_len {values['coop_ctx_len']} and coop_cls_pos {values['coop_cls_pos']}"
        )
        raise ConfigError(message, kind="coop_init_fits_its_context", key="coop_init")


def _methods_in_use(values: Values) -> tuple[list[str], list[str]]:
    """The methods in use: of the image tower, and of the text side."""
    on = [name for name, key in KEYS.items() if key.kind == "bool" and values[name]]
    image = [name for name in on if name.startswith("v.")]
    return image, [name for name in on if name.startswith("l.") or name in methods_of("head")]


def one_start(values: Values) -> None:
    """Training starts from at most one earlier run, zero-shot CLIP from none."""
    other = "zero_shot" if values["zero_shot"] else "model_dir"
    tests = values["test_only"] or values["test_train"]
    if values["init_from"] and values[other] and not (other == "model_dir" and tests):
        message = f"init_from starts training from an earlier run, which excludes {other}; leave one of them out"
        raise ConfigError(message, kind="one_start", key="init_from")


# ---- weights, images and texts ----


def weights_address_is_well_formed(values: Values) -> None:
    """weights timm:, open_clip:, hf-hub: have a name after the scheme."""
    weights = values["weights"]
    if weights and has_known_scheme(weights) and (problem := problem_of(weights)):
        raise ConfigError(f"weights {shortened(weights)} {problem}", kind="bad_address", key="weights")


def std_is_positive(values: Values) -> None:
    """Images are divided by std."""
    if values["std"] is not None and min(values["std"]) <= 0:
        message = f"std must be three numbers above 0, found {values['std']}"
        raise ConfigError(message, kind="std_is_positive", key="std")


def descriptor_has_its_file(values: Values) -> None:
    """prompt descriptor needs a file of sentences; other prompts have none."""
    prompt, file = values["prompt"], values["prompt_file"]
    if (prompt == "descriptor") != (file is not None):
        message = (
            "prompt descriptor needs prompt_file FILE with its sentences, and other prompts do not use it; "
            f"found prompt {prompt} and prompt_file {file}"
        )
        raise ConfigError(message, kind="descriptor_has_its_file", key="prompt_file")


def prompts_need_fixed_texts(values: Values) -> None:
    """Prompts other than the default are for text features that are not trained."""
    semantic = values["classifier"] and values["classifier_init"] == "semantic"
    if values["prompt"] != "default" and not (values["zero_shot"] or semantic):
        message = (
            f"prompt {values['prompt']} is for zero_shot and for a classifier with classifier_init semantic; "
            "leave prompt out"
        )
        raise ConfigError(message, kind="prompts_need_fixed_texts", key="prompt")


def warmup_ends_before_the_run(values: Values) -> None:
    """After the warm-up, the learning rate decays."""
    if values["schedule"] == "warmup_cosine" and values["warmup_epochs"] >= values["num_epochs"]:
        message = (
            f"warmup_epochs must be less than num_epochs, found warmup_epochs {values['warmup_epochs']} and num_epochs "
            f"{values['num_epochs']}; choose a shorter warm-up, or more epochs"
        )
        raise ConfigError(message, kind="warmup_too_long", key="warmup_epochs")


# ---- validation, tests and trackers ----


def the_best_epoch_is_validated(values: Values) -> None:
    """keep best selects by validation."""
    if values["keep"] == "best" and values["val_every"] is None:
        message = (
            "keep best selects the epoch with the best keep_score on validation images, so it needs val_every; add "
            "val_every 1 to validate after every epoch"
        )
        raise ConfigError(message, kind="best_without_validation", key="keep")


def a_validation_set_has_one_source(values: Values) -> None:
    """Validation images come from a list, or from the training images."""
    if values["val_list"] and values["val_fraction"]:
        message = "val_list contains the validation images, so val_fraction has no effect; leave one of them out"
        raise ConfigError(message, kind="needless_val_fraction", key="val_fraction")


def one_split_is_tested(values: Values) -> None:
    """test_train tests the training images."""
    if values["test_train"] and values["test_split"] != "test":
        message = f"test_train tests on the training images, test_split {values['test_split']} on others; leave one out"
        raise ConfigError(message, kind="two_tested_splits", key="test_split")


def tracker_is_installed(values: Values) -> None:
    """A tracker is a separate package."""
    tracker = values["tracker"]
    if tracker and importlib.util.find_spec(tracker) is None:
        message = f"tracker {tracker} needs the package {tracker}: pip install {tracker}, or leave tracker out"
        raise ConfigError(message, kind="no_tracker", key="tracker")


RULES: Sequence[Callable[[Values], None]] = (
    accum_step_divides_batch_size,
    some_runs_take_whole_batches,
    zero_shot_trains_nothing,
    classifier_reads_no_texts,
    something_trains,
    coop_init_fits_its_context,
    weights_address_is_well_formed,
    std_is_positive,
    descriptor_has_its_file,
    prompts_need_fixed_texts,
    warmup_ends_before_the_run,
    one_start,
    the_best_epoch_is_validated,
    a_validation_set_has_one_source,
    one_split_is_tested,
    tracker_is_installed,
)


# ---- options without effect ----


def warn_without_effect(values: Values, before: Values, given: Sequence[str], warn: Callable[[str], None]) -> None:
    """Sends `warn` a line for each of the `given` keys without effect. before: the values without the command line."""
    _warn_of_switches(values, before, given, warn)
    if values["tte"] and values["tte_draws"] and "expand" in given:
        warn("expand has no effect on tte_draws, which are cut from the whole image")
    for loss, row in LOSSES.items():
        for name in {loss_key(loss, option) for option in row.options} & set(given):
            if loss != values["loss_type"] and values[name] != before[name]:
                warn(f"{name} has no effect while loss_type is {values['loss_type']}")
    owners = (
        ("momentum", "optimizer", "SGD"),
        ("warmup_epochs", "schedule", "warmup_cosine"),
        ("keep_score", "keep", "best"),
    )
    for name, owner, value in owners:
        if name in given and values[owner] != value:
            warn(f"{name} has no effect with {owner} {values[owner]}; it is for {owner} {value}")
    for name in ("val_every", "keep", "tracker"):
        if name in given and values["zero_shot"]:
            warn(f"{name} has no effect with zero_shot, which does not train")


def _warn_of_switches(values: Values, before: Values, given: Sequence[str], warn: Callable[[str], None]) -> None:
    """Sends `warn` a line for each option of a method that is not in use."""
    for name in given:
        switch = _switch_of(name)
        if switch and not values[switch] and values[name] != before[name]:
            warn(f"{name} has no effect while {switch} is False")


def _switch_of(name: str) -> str | None:
    """The switch of the method that has this option, such as v.lora_mlp for v.lora_mlp_dim; None for other keys."""
    tower, _, option = name.partition(".")
    methods = [method for method in PEFT if PEFT[method].kind == "bool"]
    owners = [method for method in methods if option.startswith(f"{method}_") and option not in methods]
    return f"{tower}.{max(owners, key=len)}" if owners else None
