"""The keys of the configuration: default, type, meaning, unit and choices. utils/config/help.py prints them."""

from typing import Any, Literal, NamedTuple

# parsed by utils/config/parsing.py
Kind = Literal["bool", "int", "float", "str", "path", "floats", "layers", "range", "names"]

MOST = 10**9
FLOAT32 = 1e38  # the largest float32 is 3.4e38
LARGEST_SEED = 2**64 - 1  # torch's generators take 64 bits
BLOCKS = 1000  # of a tower
SIDE = 8192  # pixels
WIDTHS = 2**16  # of a method's tensors; no tower is as wide


class Key(NamedTuple):
    """One row of the schema. Keys with affects_training are part of a run directory's name."""

    default: Any
    kind: Kind
    help: str  # meaning and unit
    choices: tuple[Any, ...] = ()
    min: float | None = None
    max: float = float("inf")
    optional: bool = False  # None is a value, too; it always is where it is the default
    affects_training: bool = True

    @property
    def largest(self) -> float:
        """The largest value: `max`, or without one the largest that any key of this kind needs."""
        default = {"int": MOST, "float": FLOAT32, "layers": BLOCKS, "range": BLOCKS}.get(self.kind, self.max)
        return default if self.max == float("inf") else self.max

    @property
    def takes_none(self) -> bool:
        """Whether None is a value of this key."""
        return self.optional or self.default is None


def _runtime(default: Any, kind: Kind, help: str, choices: tuple[Any, ...] = (), **limits: Any) -> Key:
    """A key that does not change training, but its computation, its output or the tests."""
    return Key(default, kind, help, choices, affects_training=False, **limits)


# ---- fine-tuning methods: the same rows for both towers ----

FROM_SIZES = "None = computed from the numbers of classes and layers"
PLACES = ("attn", "mlp", "all")


class MethodKeys(NamedTuple):
    """The row of a fine-tuning method, whose code is models/peft/NAME.py. Its keys are NAME and NAME_OPTION.

    target "blocks": v.NAME in the image tower, l.NAME in the text tower, each with NAME_layers beside it
    target "resnet": v.NAME, for ResNets only
    target "head": NAME, for CLIP's own head
    """

    help: str
    options: dict[str, Key] = {}  # by name in the method's Options
    text_defaults: dict[str, Any] = {}  # options whose default differs in the text tower
    target: str = "blocks"

    def keys(self, name: str, text: bool = False) -> dict[str, Key]:
        """The rows of the schema, by key without the tower's prefix."""
        rows = {name: Key(False, "bool", self.help)}
        if self.target == "blocks":
            help = f"blocks with {name}: None = all, k = the last k, 0 = none, [0,2] = blocks 0 and 2"
            rows[f"{name}_layers"] = Key(None, "layers", help, min=0)
        for option, key in self.options.items():
            default = self.text_defaults.get(option, key.default) if text else key.default
            rows[f"{name}_{option}"] = key._replace(default=default)
        return rows


def _size(help: str) -> Key:
    """A size; None = computed by the method."""
    return Key(None, "int", f"{help}; {FROM_SIZES}", min=1, max=WIDTHS, optional=True)


RANK = {"dim": _size("rank of the update")}
WIDTH = {"dim": _size("width of the bottleneck")}
# in the order in which they are attached: meaning, options, different defaults of the text tower
METHODS: dict[str, MethodKeys] = {
    "fft": MethodKeys("full fine-tuning: all parameters of the blocks"),
    "bitfit": MethodKeys("BitFit: all biases of the blocks (Zaken et al. 2022)"),
    "ln_tuning": MethodKeys("norm tuning: weights and biases of the blocks' norms"),
    "pt": MethodKeys(
        "prompt tuning: learnt tokens after the first token (VPT, Jia et al. 2022)",
        {"len": _size("number of prompt tokens")},
        text_defaults={"len": 2},
    ),
    "lora": MethodKeys("LoRA: low-rank updates of queries and values (Hu et al. 2022)", RANK, {"dim": 4}),
    "lora_mlp": MethodKeys("LoRA on the MLP: low-rank updates of its two Linears (Hu et al. 2022)", RANK, {"dim": 4}),
    "adapter": MethodKeys("Adapter: a bottleneck in series after the MLP (Houlsby et al. 2019)", WIDTH, {"dim": 4}),
    "adaptformer": MethodKeys("AdaptFormer: a bottleneck in parallel to the MLP (Chen et al. 2022)", WIDTH, {"dim": 4}),
    "ssf": MethodKeys(
        "SSF: scale and shift of the outputs of Linears (Lian et al. 2022)",
        {"loc": Key("all", "str", "Linears with ssf", PLACES)},
    ),
    "ssf_ln": MethodKeys("SSF on norms: scale and shift of the outputs of the blocks' norms (Lian et al. 2022)"),
    "aft": MethodKeys(
        "arbitrary fine-tuning: a random fraction of the Linears' entries (LIFT+)",
        {
            "ratio": Key(None, "float", f"fraction of the entries that are trained; {FROM_SIZES}", min=0, max=1),
            "loc": Key("all", "str", "Linears with aft", PLACES),
            "seed": Key(0, "int", "seed of the choice of the entries", min=0, max=LARGEST_SEED),
        },
    ),
    "bn_tuning": MethodKeys(
        "ResNets only: weights and biases of the BatchNorms; their running statistics are updated as well",
        target="resnet",
    ),
    "coop": MethodKeys(
        "CoOp: learnt context in the prompts of the class names (Zhou et al. 2022)",
        {
            "init": Key(
                None, "str", "initial context: None = random, photo = from the prompt 'a photo of a NAME.'", ("photo",)
            ),
            "ctx_len": Key(4, "int", "number of learnt context tokens", min=1, max=WIDTHS),
            "cls_pos": Key("end", "str", "position of the class name in the prompt", ("end", "front", "middle")),
        },
        target="head",
    ),
    "proj_tuning": MethodKeys("projection tuning: the projections into CLIP's joint space", target="head"),
    "clip_adapter": MethodKeys(
        "CLIP-Adapter: bottlenecks in CLIP's joint space (Gao et al. 2021)",
        {"dim": Key(4, "int", "width of the bottlenecks", min=1, max=WIDTHS)},
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

# ---- losses, optimizers, schedules, evaluators: one row each, with MODULE:OBJECT of its code (utils/tables.py) ----


class LossKeys(NamedTuple):
    """The row of a loss. Its options are keys, NAME_OPTION in lower case, and keyword arguments of its class.

    couples_samples: a sample's loss depends on the other samples of its step, which is never split.
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
    "LDAM": LossKeys("models.losses:LDAM", {"margin": Key(0.5, "float", "largest margin m_c of LDAM; 0 = CE", min=0)}),
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
            "alpha": Key(0.1, "float", "alpha of LADE: weight of its regulariser R; 0 = LA", min=0),
            "lambda": Key(0.1, "float", "lambda of LADE: weight of d_c^2 in R", min=0),
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
        "dataset": _runtime(None, "str", "data set; set by -d"),
        "root": _runtime(None, "path", "folder of the data set's images"),
        "backbone": _runtime(None, "str", "backbone; set by -b"),
        "weights": _runtime(
            None,
            "path",
            "weights to load instead of the published ones: a file, timm:MODEL.TAG, open_clip:MODEL/TAG or "
            "hf-hub:OWNER/NAME",
        ),
        "activation": Key(
            None,
            "str",
            "activation function of the towers; None = from the weights' description",
            ("quick_gelu", "gelu"),
        ),
        "heads": Key(None, "int", "attention heads of the image tower; None = from the weights' description", min=1),
        "text_heads": Key(
            None,
            "int",
            "attention heads of the text tower; None = from the weights' description, else width / 64",
            min=1,
        ),
        "resolution": Key(
            None,
            "int",
            "side of the input images, pixels; None = the backbone's own (in a test: that of the training)",
            min=1,
            max=SIDE,
        ),
        "mean": Key(
            None,
            "floats",
            "mean of the image normalisation: RGB in 0..1, or clip, imagenet, half; None = from the weights' "
            "description",
        ),
        "std": Key(None, "floats", "standard deviation of the image normalisation: takes the same values as mean"),
        "interpolation": Key(
            None,
            "str",
            "interpolation of resized images; None = from the weights' description",
            ("bicubic", "bilinear"),
        ),
        "resize": Key(
            None,
            "str",
            "how a test image is resized before the crop: shortest = the short side, keeping proportions; squash = to "
            "a "
            "square; None = from the weights' description; no effect on training crops",
            ("shortest", "squash"),
        ),
        "seed": Key(
            0,
            "int",
            "random seed of initialisation, order of the images and crops; None = a new one for each run",
            min=0,
            max=LARGEST_SEED,
            optional=True,
        ),
        "variant": Key(
            "lift+",
            "str",
            "paper whose initial values and random draws are used, where the two differ; -m without -b sets lift",
            ("lift+", "lift"),
        ),
        "deterministic": Key(
            False, "bool", "deterministic kernels on the GPU: the same seed gives the same bits, but slower"
        ),
        "gpu": _runtime(
            0,
            "int",
            "index of the GPU; -1 = CPU, which is also used where there is no GPU; None = all GPUs",
            min=-1,
            optional=True,
        ),
        "num_workers": _runtime(
            None,
            "int",
            "processes that read images; None = one per core (none for tiny data sets), 0 = read in the main process",
            min=0,
            max=1024,
        ),
        "worker_timeout": _runtime(
            600.0,
            "float",
            "seconds without progress after which the log names the images that a process is reading; after the same "
            "time again, the run stops; None = wait forever",
            min=1,
            optional=True,
        ),
        "prec_train": Key(
            "amp",
            "str",
            "precision in training; amp = bf16, or fp16 on GPUs without bf16, or fp32 on CPUs where bf16 is slower",
            ("amp", *PRECISIONS),
        ),
        "prec_test": _runtime(
            "fp16",
            "str",
            "precision in testing; on a CPU, fp16 = as amp in training; int8 = the frozen Linears of the image tower "
            "in 8 bits, on CPUs with VNNI or AMX",
            TEST_PRECISIONS,
        ),
        "compile": _runtime(
            "auto",
            "str",
            "torch.compile for the transformer blocks in training; auto = in runs long enough to save time by it",
            ("auto", "always", "never"),
        ),
        "checkpointing": _runtime(
            False,
            "bool",
            "gradient checkpointing: recomputes each transformer block in the backward pass to save memory; the same "
            "bits, in 1.3 to 1.5 times the time",
        ),
    },
    "Data": {
        # the file names of train_list and classnames are part of a run directory's name: utils/config/naming.py
        "train_list": _runtime(
            None, "path", "-d folder: CSV or TSV of the training images: path,label or path,classname"
        ),
        "test_list": _runtime(None, "path", "-d folder: CSV or TSV of the test images"),
        "val_list": _runtime(None, "path", "-d folder: CSV or TSV of the validation images"),
        "test_fraction": Key(
            None,
            "float",
            "-d folder: fraction of each class's images held out for testing, the same for every seed",
            min=0.001,
            max=0.999,
        ),
        "val_fraction": Key(
            None,
            "float",
            "fraction of each class's training images held out for validation, the same for every seed; none from "
            "very small classes",
            min=0.001,
            max=0.999,
        ),
        "classnames": _runtime(
            None,
            "path",
            "-d folder: file of class names, one per line, or a CSV of name,prompt name; JSON and YAML, too",
        ),
        "imbalance": Key(
            None,
            "float",
            "-d folder: subsample the training images to a long tail with this ratio of largest to smallest class",
            min=1,
        ),
        "test_name": _runtime(
            None, "str", "name of the tested images in the file names of a test; None = from the list"
        ),
        "exif_orientation": Key(
            None,
            "bool",
            "rotate images by their EXIF orientation; None = True for -d folder, False for published data sets",
        ),
        "bit_depth": Key(
            None,
            "int",
            "bits used in 16-bit images (cameras: 10, 12, 14), so that 2^bits - 1 is white; None = 16",
            min=1,
            max=16,
        ),
        "outside_root": _runtime(False, "bool", "-d folder: allow images outside root in the lists"),
        "bad_images": _runtime(
            "stop",
            "str",
            "images that cannot be read: stop = the run stops; skip = leave out those listed by scripts/check_data.py",
            ("stop", "skip"),
        ),
        "image_cache": _runtime(
            None,
            "path",
            "folder of a cache for images on a slow disk: the bytes of the images in a few large files; filled on "
            "first "
            "use, shared by all runs, as large as the images",
        ),
        "reducing_gap": Key(
            None,
            "float",
            "decode JPEGs at 1/2, 1/4 or 1/8 of their size, but at least this many times the size that the crop needs: "
            "faster, with other pixels (2 = nearly the same, 1 = fastest); None = at full size",
            min=1,
        ),
        "many_threshold": _runtime(100, "int", "classes with more training images than this are many-shot", min=0),
        "few_threshold": _runtime(20, "int", "classes with fewer training images than this are few-shot", min=0),
        "shot_groups": _runtime(
            "own",
            "str",
            "class counts that define the shot groups: own = the data set's; ir100 = those of CIFAR-100-LT with "
            "imbalance "
            "100, for 50 and 10, too (as LIFT does)",
            ("own", "ir100"),
        ),
    },
    "Training": {
        "num_epochs": Key(5, "int", "passes over the training set", min=1, max=10**6 - 1),
        "batch_size": Key(128, "int", "images per step; tests use 128, or this if it is larger", min=1, max=10**6),
        "accum_step": Key(
            1,
            "int",
            "micro-batches per step (gradient accumulation), to save memory; must divide batch_size; None = as few as "
            "fit in half of the free memory",
            min=1,
            optional=True,
        ),
        "optimizer": Key("SGD", "str", "optimizer; AdamW uses betas (0.9, 0.999)", tuple(OPTIMIZERS)),
        "lr": Key(0.02, "float", "peak learning rate of the schedule", min=0),
        "weight_decay": Key(5e-4, "float", "weight decay of all trainable tensors", min=0),
        "momentum": Key(0.9, "float", "momentum of SGD", min=0),
        "schedule": Key(
            "cosine",
            "str",
            "learning rate schedule: cosine = cosine decay, updated every epoch; warmup_cosine = linear warm-up, then "
            "cosine decay, updated every step",
            tuple(SCHEDULES),
        ),
        "warmup_epochs": Key(0.0, "float", "length of the warm-up, epochs; less than num_epochs", min=0),
        "loss_type": Key("LA", "str", "loss; LA = logit adjustment (Menon et al. 2021)", tuple(LOSSES)),
        **{loss_key(loss, name): key for loss, row in LOSSES.items() for name, key in row.options.items()},
        "keep": Key(
            "last",
            "str",
            "epoch whose tensors are saved in the checkpoint: last, or best = the best keep_score on the validation "
            "images (never on test images); needs val_every",
            ("last", "best"),
        ),
        "keep_score": Key(
            "mean_class",
            "str",
            "score for keep best: overall, mean_class, many, medium, few, macro_f1, or another score in the log; the "
            "highest is best, for errors the lowest",
        ),
    },
    "Augmentation": {
        "mda": Key(
            True,
            "bool",
            "minimalist data augmentation (LIFT+): square crops, no flip; False = random resized crops and flips",
        ),
        "mda_func": Key(
            "convex",
            "str",
            "how the smallest crop size of mda grows over the epochs",
            ("convex", "linear", "concave", "min", "max"),
        ),
        "tte": _runtime(False, "bool", "test-time ensembling: averages the logits of several crops"),
        "tte_crops": _runtime(
            5, "int", "crops of tte: 5 = corners and centre; 10 = these and their mirror images", (5, 10)
        ),
        "tte_draws": _runtime(
            None,
            "int",
            "random crops of tte instead of the fixed ones: number of draws of the standard training augmentation",
            min=1,
            max=1000,
        ),
        "expand": _runtime(
            None,
            "int",
            "pixels by which a test image is resized larger than its crop; None = resolution // 7, 0 with resize "
            "squash, "
            "24 with tte",
            min=0,
            max=SIDE,
        ),
    },
    "Head": {
        "zero_shot": Key(False, "bool", "zero-shot CLIP: compares images with the class names, without training"),
        "classifier": Key(
            None,
            "str",
            "classification head; None = CLIP's own: similarity to the class names' text features",
            ("LinearClassifier", "CosineClassifier", "L2NormClassifier", "LayerNormClassifier"),
            optional=True,
        ),
        "classifier_scale": Key(25.0, "float", "scale of the cosine head's logits, and of LDAM's margins", min=0),
        "classifier_init": Key(
            "semantic",
            "str",
            "initial weights of the head: semantic = text features of the class names, class_mean = mean image "
            "features, "
            "linear_probing = logistic regression, None = random",
            ("semantic", "class_mean", "linear_probing"),
            optional=True,
        ),
        "classifier_init_images": Key(
            100,
            "int",
            "maximum number of training images per class for class_mean and linear_probing; None = all",
            min=1,
            optional=True,
        ),
        "prompt": Key(
            "default",
            "str",
            "texts for zero_shot and classifier_init semantic: default = 'a photo of a NAME.', classname = 'NAME', "
            "ensemble = mean over 80 templates, descriptor = mean over the sentences in prompt_file",
            ("default", "classname", "ensemble", "descriptor"),
        ),
        "prompt_file": _runtime(None, "path", "file for prompt descriptor: JSON {class name: [sentences]}"),
    },
    "CLIP's own head (without a classifier)": _method_keys("head"),
    "Fine-tuning of the image tower": {f"v.{name}": key for name, key in (PEFT | _method_keys("resnet")).items()},
    "Fine-tuning of the text tower": {f"l.{name}": key for name, key in TEXT_PEFT.items()},
    "Running": {
        "test_only": _runtime(False, "bool", "test the run's checkpoint, without training"),
        "test_train": _runtime(False, "bool", "test the run's checkpoint on the training images, without training"),
        "test_split": _runtime(
            "test",
            "str",
            "images to test on, after training and with test_only: val = the validation images, from val_fraction, "
            "val_list or a published list",
            ("test", "val"),
        ),
        "val_every": _runtime(
            None,
            "int",
            "epochs between validations, with one after the last epoch; None = never; with keep best, it affects which "
            "epoch is saved",
            min=1,
        ),
        "model_dir": _runtime(
            None,
            "path",
            "directory of another run: the run to test with test_only; without it, training starts from its tensors",
        ),
        "init_from": _runtime(
            None,
            "path",
            "directory of an earlier run whose classes and sizes may differ: training starts from its tensors with "
            "matching names and shapes, and from its head's rows by class name; new classes start from classifier_init",
        ),
        "output_dir": _runtime(
            None, "path", "run directory below output/, or an absolute path; None = a name from the options"
        ),
        "feature_cache": _runtime(
            True, "bool", "cache the features of a frozen image tower in the user's cache folder"
        ),
        "evaluators": _runtime(
            ("accuracy",),
            "names",
            "scores of a test, such as accuracy,top5; accuracy is always included; calibration = expected calibration "
            "error",
            tuple(EVALUATORS),
        ),
        "report": _runtime(True, "bool", "write report.html, a page about the run, after each test"),
        "save_logits": _runtime(False, "bool", "write the logits and labels of a test to logits_SUFFIX.npz"),
        "save_minutes": _runtime(
            10.0,
            "float",
            "minutes between saves of the progress within an epoch; 0 = after every step; None = after epochs only",
            min=0,
            optional=True,
        ),
        "print_freq": _runtime(10, "int", "steps between lines of the log", min=1),
        "tracker": _runtime(
            None,
            "str",
            "experiment tracker to which curves, options and scores are also sent; its package must be installed",
            ("wandb", "mlflow", "trackio"),
        ),
    },
}
# keys that do not change training, but the epoch that keep best selects
KEEPING = ("val_every", "tte", "tte_crops", "tte_draws", "expand", "many_threshold", "few_threshold", "shot_groups")
KEYS: dict[str, Key] = {name: key for group in SCHEMA.values() for name, key in group.items()}

# ---- earlier versions ----

FORMER_VALUES = {"interpolation": "bicubic", "resize": "shortest"}  # for all weights, before descriptions set them
# the value of a key that a file of an earlier version does not record
UNRECORDED: dict[str, Any] = {name: key.default for name, key in KEYS.items()} | FORMER_VALUES
