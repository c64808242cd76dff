"""Every key of the configuration: default, type, meaning, unit and choices. `--help` prints this table."""

from typing import Any, Literal, NamedTuple

# see utils/config/parsing.py
Kind = Literal["bool", "int", "float", "str", "path", "floats", "layers", "range", "names"]

MOST = 10**9
FLOAT32 = 1e38  # the largest that float32 has is 3.4e38
LARGEST_SEED = 2**64 - 1  # torch's generators take 64 bits
BLOCKS = 1000  # of a tower
SIDE = 8192  # pixels
WIDTHS = 2**16  # of a method's tensors; no tower is as wide


class Key(NamedTuple):
    """One row of the schema. A key with affects_training False never enters a run directory's name."""

    default: Any
    kind: Kind
    help: str  # meaning and unit
    choices: tuple[Any, ...] = ()
    min: float | None = None
    max: float = float("inf")
    optional: bool = False  # None is a value, as it always is where it is the default
    affects_training: bool = True

    @property
    def largest(self) -> float:
        """The largest value: `max`, or without one the most that any key of this kind needs."""
        default = {"int": MOST, "float": FLOAT32, "layers": BLOCKS, "range": BLOCKS}.get(self.kind, self.max)
        return default if self.max == float("inf") else self.max

    @property
    def takes_none(self) -> bool:
        """Whether None is a value of this key."""
        return self.optional or self.default is None


def _runtime(default: Any, kind: Kind, help: str, choices: tuple[Any, ...] = (), **limits: Any) -> Key:
    """A key that does not change training: how it is computed, where it is written, what is tested."""
    return Key(default, kind, help, choices, affects_training=False, **limits)


# ---- fine-tuning methods: the same rows for each tower ----

FROM_SIZES = "None = from the numbers of classes and layers"
PLACES = ("attn", "mlp", "all")


class MethodKeys(NamedTuple):
    """The row of a fine-tuning method, whose code is models/peft/NAME.py. Its keys are NAME and NAME_OPTION.

    target "blocks": v.NAME in the image tower, l.NAME in the text tower, each with NAME_layers beside it
    target "resnet": v.NAME, for ResNets alone
    target "head": NAME, for CLIP's own head
    """

    help: str
    options: dict[str, Key] = {}  # by their names in the method's Options
    text_defaults: dict[str, Any] = {}  # of these options, where the text tower has other defaults
    target: str = "blocks"

    def keys(self, name: str, text: bool = False) -> dict[str, Key]:
        """The rows of the schema, by key without the prefix of the tower."""
        rows = {name: Key(False, "bool", self.help)}
        if self.target == "blocks":
            help = f"blocks with {name}: None = all, k = the last k, 0 = none, [0,2] = those"
            rows[f"{name}_layers"] = Key(None, "layers", help, min=0)
        for option, key in self.options.items():
            default = self.text_defaults.get(option, key.default) if text else key.default
            rows[f"{name}_{option}"] = key._replace(default=default)
        return rows


def _size(help: str) -> Key:
    """A size that the method computes where it is None."""
    return Key(None, "int", f"{help}; {FROM_SIZES}", min=1, max=WIDTHS, optional=True)


RANK = {"dim": _size("rank of the update")}
WIDTH = {"dim": _size("width of the bottleneck")}
# in the order in which they are attached: meaning, options, their other defaults in the text tower
METHODS: dict[str, MethodKeys] = {
    "fft": MethodKeys("full fine-tuning: all parameters of the blocks"),
    "bitfit": MethodKeys("every bias of the blocks (Zaken et al. 2022)"),
    "ln_tuning": MethodKeys("weights and biases of the blocks' norms"),
    "pt": MethodKeys(
        "prompt tuning: learnt tokens after the first token (VPT, Jia et al. 2022)",
        {"len": _size("number of prompt tokens")},
        text_defaults={"len": 2},
    ),
    "lora": MethodKeys("low-rank updates of queries and values (Hu et al. 2022)", RANK, {"dim": 4}),
    "lora_mlp": MethodKeys("low-rank updates of the MLP's two Linears (Hu et al. 2022)", RANK, {"dim": 4}),
    "adapter": MethodKeys("a bottleneck in series after the MLP (Houlsby et al. 2019)", WIDTH, {"dim": 4}),
    "adaptformer": MethodKeys("a bottleneck in parallel to the MLP (Chen et al. 2022)", WIDTH, {"dim": 4}),
    "ssf": MethodKeys(
        "scale and shift of what the Linears give (Lian et al. 2022)",
        {"loc": Key("all", "str", "Linears with ssf", PLACES)},
    ),
    "ssf_ln": MethodKeys("scale and shift of what the blocks' norms give (Lian et al. 2022)"),
    "aft": MethodKeys(
        "arbitrary fine-tuning: a random fraction of the Linears' entries (LIFT+)",
        {
            "ratio": Key(None, "float", f"fraction of the entries that train; {FROM_SIZES}", min=0, max=1),
            "loc": Key("all", "str", "Linears with aft", PLACES),
            "seed": Key(0, "int", "seed of the choice of entries", min=0, max=LARGEST_SEED),
        },
    ),
    "bn_tuning": MethodKeys(
        "ResNets: BatchNorms' weights and biases train, their statistics follow the images", target="resnet"
    ),
    "coop": MethodKeys(
        "learnt context in the prompts of the class names (CoOp, Zhou et al. 2022)",
        {
            "init": Key(None, "str", "first context: None = random, photo = that of 'a photo of a NAME.'", ("photo",)),
            "ctx_len": Key(4, "int", "learnt tokens in a prompt", min=1, max=WIDTHS),
            "cls_pos": Key("end", "str", "place of the class name in the prompt", ("end", "front", "middle")),
        },
        target="head",
    ),
    "proj_tuning": MethodKeys("the projections into the joint space train", target="head"),
    "clip_adapter": MethodKeys(
        "bottlenecks in the joint space (CLIP-Adapter, Gao et al. 2021)",
        {"dim": Key(4, "int", "width of these bottlenecks", min=1, max=WIDTHS)},
        target="head",
    ),
}


def methods_of(target: str) -> list[str]:
    """The names of the methods with this target."""
    return [name for name, row in METHODS.items() if row.target == target]


def _method_keys(target: str, text: bool = False) -> dict[str, Key]:
    """The rows of all methods with this target."""
    return {key: row for name in methods_of(target) for key, row in METHODS[name].keys(name, text).items()}


PEFT = _method_keys("blocks")
TEXT_PEFT = _method_keys("blocks", text=True)

# ---- losses, optimizers, schedules, evaluators: a row each, MODULE:OBJECT being its code (utils/tables.py) ----


class LossKeys(NamedTuple):
    """The row of a loss. Its options are keys, NAME_OPTION in lower case, and keyword arguments of its class.

    couples_samples: a sample's loss depends on the others of its step, which is then computed as a whole.
    """

    code: str
    options: dict[str, Key] = {}
    couples_samples: bool = False


def loss_key(loss: str, option: str) -> str:
    """The key of an option: focal_gamma of Focal's gamma."""
    return f"{loss.lower()}_{option}"


LOSSES: dict[str, LossKeys] = {
    "CE": LossKeys("models.losses:CrossEntropy"),
    "Focal": LossKeys(
        "models.losses:Focal",
        {"gamma": Key(2.0, "float", "gamma of Focal: losses times (1 - p_y)^gamma; 0 = CE", min=0)},
    ),
    "LDAM": LossKeys(
        "models.losses:LDAM", {"margin": Key(0.5, "float", "the largest margin m_c of LDAM; 0 = CE", min=0)}
    ),
    "CB": LossKeys(
        "models.losses:ClassBalanced",
        {"beta": Key(0.9999, "float", "beta of CB: weights (1 - beta) / (1 - beta^n_c); 0 = CE", min=0, max=0.999999)},
    ),
    "GRW": LossKeys("models.losses:Reweighted"),
    "BS": LossKeys("models.losses:BalancedSoftmax"),
    "LA": LossKeys(
        "models.losses:LogitAdjusted", {"tau": Key(1.0, "float", "tau of LA: logits plus tau log pi; 0 = CE", min=0)}
    ),
    "LADE": LossKeys(
        "models.losses:LADE",
        {
            "alpha": Key(0.1, "float", "alpha of LADE: the weight of its regulariser R; 0 = LA", min=0),
            "lambda": Key(0.1, "float", "lambda of LADE: the weight of d_c^2 in R", min=0),
        },
        couples_samples=True,
    ),
}
OPTIMIZERS = {
    "SGD": "utils.optim:sgd",
    "AdamW": "utils.optim:adamw",
}
SCHEDULES = {
    "cosine": "utils.schedule:cosine",
    "warmup_cosine": "utils.schedule:warmup_cosine",
}
EVALUATORS = {
    "accuracy": "utils.evaluators:accuracy",
    "top5": "utils.evaluators:top5",
    "calibration": "utils.evaluators:calibration",
}

PRECISIONS = ("fp16", "bf16", "fp32")
TEST_PRECISIONS = (*PRECISIONS, "int8")

# ---- all keys ----

SCHEMA: dict[str, dict[str, Key]] = {
    "General": {
        "dataset": _runtime(None, "str", "data set (set by the file of -d)"),
        "root": _runtime(None, "path", "folder of the data set's images"),
        "backbone": _runtime(None, "str", "backbone (set by -b)"),
        "weights": _runtime(
            None,
            "path",
            "file that replaces the published weights, or timm:MODEL.TAG, open_clip:MODEL/TAG, hf-hub:OWNER/NAME",
        ),
        "activation": Key(
            None, "str", "activation of the weights' towers; None = from their description", ("quick_gelu", "gelu")
        ),
        "heads": Key(None, "int", "attention heads of the weights' image tower; None = from their description", min=1),
        "text_heads": Key(None, "int", "of their text tower; None = from their description, else width / 64", min=1),
        "resolution": Key(
            None,
            "int",
            "side of the images, pixels; None = the backbone's own, in a test that of its training",
            min=1,
            max=SIDE,
        ),
        "mean": Key(
            None,
            "floats",
            "mean of the normalisation, RGB in 0..1, or clip, imagenet, half; None = from the weights' description",
        ),
        "std": Key(None, "floats", "deviation of the normalisation, as mean"),
        "interpolation": Key(
            None, "str", "how images are resized; None = from the weights' description", ("bicubic", "bilinear")
        ),
        "resize": Key(
            None,
            "str",
            "sides of a test image that are resized before a square is cut: shortest = the short one, the long one in "
            "proportion, squash = both, to a square; None = from the weights' description; training crops do not "
            "depend on it",
            ("shortest", "squash"),
        ),
        "seed": Key(
            0,
            "int",
            "seed of initialisation, order and crops; None = another one each time",
            min=0,
            max=LARGEST_SEED,
            optional=True,
        ),
        "variant": Key(
            "lift+",
            "str",
            "which paper's starting values and draws, where they differ (docs/methods.md); set by -m without -b",
            ("lift+", "lift"),
        ),
        "deterministic": Key(False, "bool", "deterministic kernels on the GPU: a run repeats bit for bit (slower)"),
        "gpu": _runtime(
            0,
            "int",
            "index of the GPU; -1 = CPU, also taken where there is no GPU; None = all (docs/scale.md)",
            min=-1,
            optional=True,
        ),
        "num_workers": _runtime(
            None, "int", "processes that read images; None = one a core (none for tiny sets), 0 = none", min=0, max=1024
        ),
        "worker_timeout": _runtime(
            600.0,
            "float",
            "seconds without progress of such a process after which the log names the images that are waited for; "
            "after as many more the run ends; None = wait for ever",
            min=1,
            optional=True,
        ),
        "prec_train": Key(
            "amp",
            "str",
            "precision in training; amp = bf16 (GPUs without it: fp16; CPUs that compute float32 faster: fp32)",
            ("amp", *PRECISIONS),
        ),
        "prec_test": _runtime(
            "fp16",
            "str",
            "precision in testing; fp16 on a CPU = as amp in training; int8 = the frozen Linears of the image tower in "
            "8 bits, on CPUs with VNNI or AMX (docs/performance.md)",
            TEST_PRECISIONS,
        ),
        "compile": _runtime(
            "auto",
            "str",
            "torch.compile of the transformer blocks in training; auto = in runs long enough to earn it back",
            ("auto", "always", "never"),
        ),
        "checkpointing": _runtime(
            False,
            "bool",
            "gradient checkpointing: compute each transformer block again in the backward pass, to save memory; the "
            "same bits, in 1.2 to 1.4 times the time (docs/scale.md)",
        ),
    },
    "Data": {
        # train_list and classnames enter a run directory's name by their file's name: utils/config/naming.py
        "train_list": _runtime(None, "path", "-d folder: CSV or TSV of training images: path,label"),
        "test_list": _runtime(None, "path", "-d folder: CSV or TSV of test images"),
        "val_list": _runtime(None, "path", "-d folder: CSV or TSV of validation images"),
        "test_fraction": Key(
            None,
            "float",
            "-d folder: share of each class's images that are held out for testing, the same for every seed",
            min=0.001,
            max=0.999,
        ),
        "val_fraction": Key(
            None,
            "float",
            "share of each class's training images that are held out for validation, the same for every seed; small "
            "classes may lose none",
            min=0.001,
            max=0.999,
        ),
        "classnames": _runtime(None, "path", "-d folder: file of class names, or of name,prompt name (.csv)"),
        "imbalance": Key(
            None, "float", "-d folder: thin the training images to a long tail, largest class / smallest class", min=1
        ),
        "test_name": _runtime(
            None, "str", "name of the tested images in the names of a test's files; None = from the list"
        ),
        "exif_orientation": Key(
            None, "bool", "turn images as their EXIF says; None = only those of -d folder, published sets are as stored"
        ),
        "bit_depth": Key(
            None,
            "int",
            "bits used by pictures of 16 bits (10, 12, 14 of cameras): 2^bits - 1 is white; None = 16",
            min=1,
            max=16,
        ),
        "outside_root": _runtime(False, "bool", "-d folder: lists may name images outside root"),
        "bad_images": _runtime(
            "stop",
            "str",
            "stop at an image that cannot be read, or skip: leave out those that scripts/check_data.py has listed",
            ("stop", "skip"),
        ),
        "image_cache": _runtime(
            None,
            "path",
            "folder of a cache for images on a slow disk: their bytes in few large files, as many as the images have; "
            "filled when they are first used, and shared by all runs",
        ),
        "reducing_gap": Key(
            None,
            "float",
            "decode a JPEG to 1/2, 1/4 or 1/8 of its size while it stays this many times as large as its crop needs: "
            "faster, other pixels (2 nearly the same, 1 fastest); None = in full",
            min=1,
        ),
        "many_threshold": _runtime(100, "int", "classes with more training images are many-shot", min=0),
        "few_threshold": _runtime(20, "int", "classes with fewer training images are few-shot", min=0),
        "shot_groups": _runtime(
            "own",
            "str",
            "class counts of the shot groups: own, or ir100 = CIFAR-100-LT's of imbalance 100 for 50 and 10 (LIFT)",
            ("own", "ir100"),
        ),
    },
    "Training": {
        "num_epochs": Key(5, "int", "passes over the training set", min=1, max=10**6 - 1),
        "batch_size": Key(
            128, "int", "images in a step; a test takes 128 at a time, or this if it is more", min=1, max=10**6
        ),
        "accum_step": Key(
            1,
            "int",
            "micro-batches that a step is split into, to save memory; divides batch_size; "
            "None = as few as fit in the free memory",
            min=1,
            optional=True,
        ),
        "optimizer": Key("SGD", "str", "optimizer; AdamW has betas (0.9, 0.999)", tuple(OPTIMIZERS)),
        "lr": Key(0.02, "float", "largest learning rate, from which the schedule falls", min=0),
        "weight_decay": Key(5e-4, "float", "weight decay of every trainable tensor", min=0),
        "momentum": Key(0.9, "float", "momentum of SGD", min=0),
        "schedule": Key(
            "cosine",
            "str",
            "learning rate: cosine = falls along a cosine from epoch to epoch, "
            "warmup_cosine = rises linearly, then falls along a cosine, from step to step",
            tuple(SCHEDULES),
        ),
        "warmup_epochs": Key(0.0, "float", "length of the warm-up, epochs; below num_epochs", min=0),
        "loss_type": Key(
            "LA", "str", "loss; LA = logit adjustment (Menon et al. 2021); the others: docs/methods.md", tuple(LOSSES)
        ),
        **{loss_key(loss, name): key for loss, row in LOSSES.items() for name, key in row.options.items()},
        "keep": Key(
            "last",
            "str",
            "the epoch whose tensors the checkpoint has: last, or best = the one of the best keep_score on validation "
            "images, never on test images; needs val_every",
            ("last", "best"),
        ),
        "keep_score": Key(
            "mean_class",
            "str",
            "score of keep best: overall, mean_class, many, medium, few, macro_f1, or another one of the log; the "
            "largest is best, of an error the smallest",
        ),
    },
    "Augmentation": {
        "mda": Key(True, "bool", "minimalist data augmentation: square crops, no flip; False = the standard one"),
        "mda_func": Key(
            "convex",
            "str",
            "how the smallest crop grows over the epochs",
            ("convex", "linear", "concave", "min", "max"),
        ),
        "tte": _runtime(False, "bool", "test-time ensembling: several crops, logits averaged"),
        "tte_crops": _runtime(5, "int", "crops of tte: corners and centre, or 10: of the mirror image too", (5, 10)),
        "tte_draws": _runtime(
            None,
            "int",
            "instead of these crops: this many draws of the standard training crop and flip",
            min=1,
            max=1000,
        ),
        "expand": _runtime(
            None,
            "int",
            "pixels by which a test image's short side, or its square, exceeds the crop; None = resolution // 7, with "
            "resize squash 0, with tte 24",
            min=0,
            max=SIDE,
        ),
    },
    "Head": {
        "zero_shot": Key(False, "bool", "no training: images against the class names, by CLIP alone"),
        "classifier": Key(
            None,
            "str",
            "head on the image feature; None = similarity to the class names' text features",
            ("LinearClassifier", "CosineClassifier", "L2NormClassifier", "LayerNormClassifier"),
            optional=True,
        ),
        "classifier_scale": Key(25.0, "float", "scale of the cosine head's logits, and of LDAM's margins", min=0),
        "classifier_init": Key(
            "semantic",
            "str",
            "first weights: class names' text features, mean features, a logistic regression, or None = random",
            ("semantic", "class_mean", "linear_probing"),
            optional=True,
        ),
        "classifier_init_images": Key(
            100,
            "int",
            "training images a class, at most, for class_mean and linear_probing; None = all",
            min=1,
            optional=True,
        ),
        "prompt": Key(
            "default",
            "str",
            "texts for zero_shot and classifier_init semantic: default 'a photo of a NAME.', classname 'NAME', "
            "ensemble = mean of 80 templates, descriptor = mean of the sentences in prompt_file",
            ("default", "classname", "ensemble", "descriptor"),
        ),
        "prompt_file": _runtime(None, "path", "for prompt descriptor: JSON {class name: [sentences]}"),
    },
    "CLIP's own head (without a classifier)": _method_keys("head"),
    "Fine-tuning of the image tower": {f"v.{name}": key for name, key in (PEFT | _method_keys("resnet")).items()},
    "Fine-tuning of the text tower": {f"l.{name}": key for name, key in TEXT_PEFT.items()},
    "Running": {
        "test_only": _runtime(False, "bool", "no training: test the run's checkpoint"),
        "test_train": _runtime(False, "bool", "no training: evaluate the run on the training set"),
        "test_split": _runtime(
            "test",
            "str",
            "the images that are tested, after training and by test_only: val = the validation set, of val_fraction, "
            "val_list or a published list",
            ("test", "val"),
        ),
        "val_every": _runtime(
            None,
            "int",
            "epochs between two validations while training, and one after the last epoch; None = none; training does "
            "not change by it, unless keep is best",
            min=1,
        ),
        "model_dir": _runtime(
            None, "path", "folder of another run: with test_only the run to test, without it the start of training"
        ),
        "init_from": _runtime(
            None,
            "path",
            "folder of an earlier run, whose classes and sizes may differ: training starts from its tensors of equal "
            "names and shapes, and from its head's rows by class name; new classes start as classifier_init says",
        ),
        "output_dir": _runtime(
            None, "path", "run directory below output/, or an absolute path; None = output/ and a name from the options"
        ),
        "feature_cache": _runtime(
            True, "bool", "cache the features of a frozen image tower in the user's cache folder"
        ),
        "evaluators": _runtime(
            ("accuracy",),
            "names",
            "measures of a test, like accuracy,top5; accuracy is always among them, calibration = its expected error",
            tuple(EVALUATORS),
        ),
        "report": _runtime(True, "bool", "write report.html, a page about the run, after each test"),
        "save_logits": _runtime(False, "bool", "write the test's logits and labels to logits_SUFFIX.npz"),
        "save_minutes": _runtime(
            10.0,
            "float",
            "minutes between two saves of the progress within an epoch; 0 = after every step; None = after epochs only",
            min=0,
            optional=True,
        ),
        "print_freq": _runtime(10, "int", "steps between two lines of the log", min=1),
        "tracker": _runtime(
            None,
            "str",
            "send curves, options and scores of a training to this package, too, if it is installed",
            ("wandb", "mlflow", "trackio"),
        ),
    },
}
# keys that change no training, but which epoch keep best takes
KEEPING = ("val_every", "tte", "tte_crops", "tte_draws", "expand", "many_threshold", "few_threshold", "shot_groups")
KEYS: dict[str, Key] = {name: key for group in SCHEMA.values() for name, key in group.items()}

# ---- earlier versions ----

FORMER_VALUES = {"interpolation": "bicubic", "resize": "shortest"}  # of all weights, before their description decided
# the meaning of a key that a file of an earlier version does not record
UNRECORDED: dict[str, Any] = {name: key.default for name, key in KEYS.items()} | FORMER_VALUES
