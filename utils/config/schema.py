"""Every key of the configuration: default, type, meaning, unit and choices. `--help` prints this table."""

from typing import Any, Literal, NamedTuple

Kind = Literal["bool", "int", "float", "str", "path", "floats", "layers", "range"]  # see utils/config/parsing.py


class Key(NamedTuple):
    """One row of the schema.

    A key whose values do not change training (how it is computed, where it is written, what is tested) has
    affects_training False: it never enters a run directory's name.
    """

    default: Any
    kind: Kind
    help: str  # meaning and unit
    choices: tuple[Any, ...] = ()
    min: float | None = None
    max: float = float("inf")
    optional: bool = False  # None is a value, as it always is where it is the default
    affects_training: bool = True

    @property
    def takes_none(self) -> bool:
        """Whether None is a value of this key."""
        return self.optional or self.default is None


# ---- fine-tuning methods: the same rows for each tower ----

FROM_SIZES = "None = from the numbers of classes and layers"


def _method(name: str, help: str, **options: Key) -> dict[str, Key]:
    """The rows of one fine-tuning method: its switch, its layers and its own options."""
    layers = Key(None, "layers", f"blocks with {name}: None = all, k = the last k, 0 = none, [0,2] = those", min=0)
    return {name: Key(False, "bool", help), f"{name}_layers": layers, **options}


def _size(default: int | None, meaning: str) -> Key:
    return Key(default, "int", f"{meaning}; {FROM_SIZES}", min=1, optional=True)


def _tower(length: int | None, rank: int | None, width: int | None) -> dict[str, Key]:
    """The rows of one tower: every fine-tuning method. length, rank, width: the default sizes in this tower."""
    linears = ("attn", "mlp", "all")
    return {
        **_method("fft", "full fine-tuning: all parameters of the blocks"),
        **_method("bitfit", "every bias of the blocks (Zaken et al. 2022)"),
        **_method("ln_tuning", "weights and biases of the blocks' norms"),
        **_method(
            "pt",
            "prompt tuning: learnt tokens after the first token (VPT, Jia et al. 2022)",
            pt_len=_size(length, "number of prompt tokens"),
        ),
        **_method(
            "lora",
            "low-rank updates of queries and values (Hu et al. 2022)",
            lora_dim=_size(rank, "rank of the update"),
        ),
        **_method(
            "lora_mlp",
            "low-rank updates of the MLP's two Linears (Hu et al. 2022)",
            lora_mlp_dim=_size(rank, "rank of the update"),
        ),
        **_method(
            "adapter",
            "a bottleneck in series after the MLP (Houlsby et al. 2019)",
            adapter_dim=_size(width, "width of the bottleneck"),
        ),
        **_method(
            "adaptformer",
            "a bottleneck in parallel to the MLP (Chen et al. 2022)",
            adaptformer_dim=_size(width, "width of the bottleneck"),
        ),
        **_method(
            "ssf",
            "scale and shift of the outputs of the Linears (Lian et al. 2022)",
            ssf_loc=Key("all", "str", "Linears with ssf", linears),
        ),
        **_method("ssf_ln", "scale and shift of the outputs of the blocks' norms (Lian et al. 2022)"),
        **_method(
            "aft",
            "arbitrary fine-tuning: a random fraction of the Linears' entries (LIFT+)",
            aft_ratio=Key(None, "float", f"fraction of the entries that train; {FROM_SIZES}", min=0, max=1),
            aft_loc=Key("all", "str", "Linears with aft", linears),
            aft_seed=Key(0, "int", "seed of the choice of entries", min=0),
        ),
    }


PEFT = _tower(None, None, None)
RESNET_PEFT = {
    "bn_tuning": Key(False, "bool", "ResNets: BatchNorms' weights and biases train, their statistics follow the images")
}
TEXT_PEFT = _tower(2, 4, 4)

PRECISIONS = ("fp16", "bf16", "fp32")

# ---- all keys ----

SCHEMA: dict[str, dict[str, Key]] = {
    "General": {
        "dataset": Key(None, "str", "data set (set by the file of -d)", affects_training=False),
        "root": Key(None, "path", "folder of the data set's images", affects_training=False),
        "backbone": Key(None, "str", "backbone (set by the file of -b)", affects_training=False),
        "weights": Key(
            None,
            "path",
            "file that replaces the published weights, or timm:MODEL.TAG, or open_clip:MODEL/TAG",
            affects_training=False,
        ),
        "activation": Key(
            None, "str", "activation of the weights' towers; None = from their description", ("quick_gelu", "gelu")
        ),
        "heads": Key(None, "int", "attention heads of the weights' image tower; None = from their description", min=1),
        "text_heads": Key(None, "int", "of their text tower; None = from their description, else width / 64", min=1),
        "resolution": Key(None, "int", "side of the images, pixels; None = the backbone's own", min=1),
        "mean": Key(
            None,
            "floats",
            "mean of the normalisation, RGB in 0..1, or clip, imagenet, half; None = from the weights' description",
        ),
        "std": Key(None, "floats", "deviation of the normalisation, as mean"),
        "interpolation": Key("bicubic", "str", "how images are resized", ("bicubic", "bilinear")),
        "seed": Key(
            0, "int", "seed of initialisation, order and crops; None = another one each time", min=0, optional=True
        ),
        "variant": Key(
            "lift+",
            "str",
            "which paper's starting values and draws, where they differ (docs/methods.md); set by -m without -b",
            ("lift+", "lift"),
        ),
        "deterministic": Key(False, "bool", "deterministic kernels on the GPU, wherever torch has them (slower)"),
        "gpu": Key(
            0,
            "int",
            "index of the GPU; -1 = CPU, also taken where there is no GPU; None = all (docs/scale.md)",
            min=-1,
            optional=True,
            affects_training=False,
        ),
        "num_workers": Key(
            None,
            "int",
            "processes that read images; None = one a core (none for tiny sets), 0 = none",
            min=0,
            affects_training=False,
        ),
        "prec_train": Key("amp", "str", "precision in training; amp = bf16, or fp16 without it", ("amp", *PRECISIONS)),
        "prec_test": Key("fp16", "str", "precision in testing", PRECISIONS, affects_training=False),
        "compile": Key(
            "auto",
            "str",
            "torch.compile of the transformer blocks in training; auto = in runs long enough to earn it back",
            ("auto", "always", "never"),
            affects_training=False,
        ),
    },
    "Data": {
        # train_list and classnames enter a run directory's name by their file's name: utils/config/naming.py
        "train_list": Key(None, "path", "-d folder: CSV or TSV of training images: path,label", affects_training=False),
        "test_list": Key(None, "path", "-d folder: CSV or TSV of test images", affects_training=False),
        "test_fraction": Key(
            None,
            "float",
            "-d folder: share of each class's images that are held out for testing, the same for every seed",
            min=0.001,
            max=0.999,
        ),
        "classnames": Key(
            None, "path", "-d folder: file of class names, or of name,prompt name (.csv)", affects_training=False
        ),
        "imbalance": Key(
            None, "float", "-d folder: thin the training images to a long tail, largest class / smallest class", min=1
        ),
        "test_name": Key(
            None,
            "str",
            "name of the tested images in the names of a test's files; None = from the list",
            affects_training=False,
        ),
        "exif_orientation": Key(
            None, "bool", "turn images as their EXIF says; None = only those of -d folder, published sets are as stored"
        ),
        "outside_root": Key(False, "bool", "-d folder: lists may name images outside root", affects_training=False),
        "bad_images": Key(
            "stop",
            "str",
            "stop at an image that cannot be read, or skip: leave out those that scripts/check_data.py has listed",
            ("stop", "skip"),
            affects_training=False,
        ),
        "reducing_gap": Key(
            None,
            "float",
            "decode a JPEG to 1/2, 1/4 or 1/8 of its size while it stays this many times as large as its crop needs: "
            "faster, other pixels (2 nearly the same, 1 fastest); None = in full",
            min=1,
        ),
        "many_threshold": Key(
            100, "int", "classes with more training images are many-shot", min=0, affects_training=False
        ),
        "few_threshold": Key(
            20, "int", "classes with fewer training images are few-shot", min=0, affects_training=False
        ),
        "shot_groups": Key(
            "own",
            "str",
            "class counts of the shot groups: own, or ir100 = CIFAR-100-LT's of imbalance 100 for 50 and 10 (LIFT)",
            ("own", "ir100"),
            affects_training=False,
        ),
    },
    "Training": {
        "num_epochs": Key(5, "int", "passes over the training set", min=1),
        "batch_size": Key(128, "int", "images in a step; a test takes 128 at a time, or this if it is more", min=1),
        "accum_step": Key(
            1,
            "int",
            "micro-batches that a step is split into, to save memory; divides batch_size; "
            "None = as few as fit in a third of the free memory",
            min=1,
            optional=True,
        ),
        "lr": Key(0.02, "float", "learning rate of the first epoch; falls along a cosine", min=0),
        "weight_decay": Key(5e-4, "float", "weight decay of every trainable tensor", min=0),
        "momentum": Key(0.9, "float", "momentum of SGD", min=0),
        "loss_type": Key(
            "LA",
            "str",
            "loss; LA = logit adjustment (Menon et al. 2021); the others: docs/methods.md",
            ("CE", "Focal", "LDAM", "CB", "GRW", "BS", "LA", "LADE"),
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
        "tte": Key(False, "bool", "test-time ensembling: several crops, logits averaged", affects_training=False),
        "tte_crops": Key(
            5,
            "int",
            "crops of tte: corners and centre, or 10: of the mirror image too",
            (5, 10),
            affects_training=False,
        ),
        "tte_draws": Key(
            None,
            "int",
            "instead of these crops: this many draws of the standard training crop and flip",
            min=1,
            affects_training=False,
        ),
        "expand": Key(
            None,
            "int",
            "pixels by which a test image's short side exceeds the crop; None = resolution // 7, with tte 24",
            min=0,
            affects_training=False,
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
        "prompt_file": Key(
            None, "path", "for prompt descriptor: JSON {class name: [sentences]}", affects_training=False
        ),
    },
    "CLIP's own head (without a classifier)": {
        "coop": Key(False, "bool", "learnt context in the prompts of the class names (CoOp, Zhou et al. 2022)"),
        "coop_init": Key(None, "str", "first context: None = random, photo = that of 'a photo of a NAME.'", ("photo",)),
        "coop_ctx_len": Key(4, "int", "learnt tokens in a prompt", min=1),
        "coop_cls_pos": Key("end", "str", "position of the class name in the prompt", ("end", "front", "middle")),
        "proj_tuning": Key(False, "bool", "the projections into the joint space train"),
        "clip_adapter": Key(False, "bool", "bottlenecks in the joint space (CLIP-Adapter, Gao et al. 2021)"),
        "clip_adapter_dim": Key(4, "int", "width of these bottlenecks", min=1),
    },
    "Fine-tuning of the image tower": {f"v.{name}": key for name, key in (PEFT | RESNET_PEFT).items()},
    "Fine-tuning of the text tower": {f"l.{name}": key for name, key in TEXT_PEFT.items()},
    "Running": {
        "test_only": Key(False, "bool", "no training: test the run's checkpoint", affects_training=False),
        "test_train": Key(False, "bool", "no training: evaluate the run on the training set", affects_training=False),
        "model_dir": Key(
            None,
            "path",
            "folder of another run: with test_only the run to test, without it the start of training",
            affects_training=False,
        ),
        "output_dir": Key(None, "str", "run directory below output/; None = from the names", affects_training=False),
        "feature_cache": Key(
            True,
            "bool",
            "cache the features of a frozen image tower in the user's cache folder",
            affects_training=False,
        ),
        "save_logits": Key(
            False, "bool", "write the test's logits and labels to logits_WHAT.npz", affects_training=False
        ),
        "print_freq": Key(10, "int", "steps between two lines of the log", min=1, affects_training=False),
    },
}
KEYS: dict[str, Key] = {name: key for group in SCHEMA.values() for name, key in group.items()}
