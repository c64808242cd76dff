"""Suggests the intended name for a wrong key, file of configs/ or value; None rather than an unlikely one."""

import difflib
import re
from collections.abc import Collection, Mapping

CUTOFF = 0.8  # difflib's ratio of two names: one or two letters are wrong


def _by_other_name(table: Mapping[str, str]) -> dict[str, str]:
    """{name here: "other names"} as {other name: name here}, the other names by their letters."""
    return {_letters(other): name for name, others in table.items() for other in others.split()}


def _letters(name: str) -> str:
    """The name for comparisons: its letters, digits and plus signs."""
    return re.sub(r"[^\w+]|_", "", name.casefold())


# ---- names in other programs ----

OTHER_KEYS = _by_other_name(
    {
        "lr": "learning_rate base_lr init_lr initial_lr max_lr peak_lr lr0 step_size",
        "weight_decay": "wd decay l2 l2_reg l2_regularization",
        "num_epochs": "epochs epoch max_epochs max_epoch n_epochs num_train_epochs total_epochs train_epochs",
        "batch_size": "batch bs train_batch_size per_device_train_batch_size",
        "accum_step": "gradient_accumulation_steps grad_accum accumulate_grad_batches accumulation_steps accum_iter "
        "grad_accum_steps accumulation accum",
        "checkpointing": "gradient_checkpointing grad_checkpointing activation_checkpointing use_checkpoint "
        "set_grad_checkpointing grad_ckpt",
        "num_workers": "workers n_workers dataloader_num_workers data_workers num_threads threads",
        "root": "data_dir data_path data_root dataset_root dataset_dir dataset_path image_dir image_root images "
        "image_folder root_dir",
        "train_list": "train_file train_txt train_csv train_split",
        "test_list": "test_file test_txt test_csv",
        "test_fraction": "test_size holdout test_ratio",
        "val_list": "val_file val_csv val_txt valid_list validation_list",
        "val_fraction": "val_split val_ratio val_size validation_split validation_fraction",
        "val_every": "eval_every eval_freq eval_interval val_interval val_freq validate_every eval_steps "
        "check_val_every_n_epoch",
        "keep": "save_best keep_best load_best load_best_model_at_end checkpoint_policy",
        "keep_score": "metric_for_best_model best_metric monitor",
        "tracker": "logger report_to log_to experiment_tracker wandb mlflow trackio",
        "classnames": "label_names labels_file classes names",
        "imbalance": "imbalance_ratio imb_ratio imbalance_factor",
        "output_dir": "output out outdir save_dir log_dir work_dir result_dir results_dir run_dir exp_dir exp_name "
        "experiment_name run_name",
        "model_dir": "checkpoint ckpt load load_from checkpoint_path ckpt_path resume_from model_path",
        "test_only": "eval evaluate test eval_only evaluate_only test_mode",
        "test_train": "eval_train evaluate_train",
        "seed": "random_seed manual_seed random_state rng_seed",
        "gpu": "device gpus cuda gpu_id gpu_ids device_id cuda_device no_cuda cpu",
        "loss_type": "loss criterion loss_fn loss_function loss_name",
        "optimizer": "optim opt optimizer_name solver",
        "schedule": "scheduler lr_scheduler lr_schedule lr_policy sched scheduler_type",
        "warmup_epochs": "warmup warmup_steps warm_up num_warmup_epochs",
        "momentum": "sgd_momentum",
        "prec_train": "precision mixed_precision dtype use_amp amp fp16 bf16 half",
        "resolution": "image_size img_size input_size imgsz input_resolution crop_size image_resolution",
        "weights": "pretrained pretrained_weights weight weights_file model_weights pretrained_path weights_path",
        "print_freq": "log_interval log_freq print_interval log_every print_every logging_steps",
        "tte": "tta test_time_augmentation test_time_ensembling use_tta",
        "tte_crops": "num_crops n_crops crops",
        "mda": "augmentation augment aug data_aug minimalist_data_augmentation",
        "classifier": "head classifier_type head_type",
        "classifier_scale": "temperature logit_scale cosine_scale",
        "classifier_init": "head_init init",
        "focal_gamma": "gamma",
        "la_tau": "tau",
        "ldam_margin": "margin max_m",
        "cb_beta": "beta",
        "zero_shot": "zs",
        "interpolation": "interp resample",
        "resize": "resize_mode crop_mode",
        "many_threshold": "many_shot_threshold many_thr many_shot_thr",
        "few_threshold": "few_shot_threshold few_thr low_shot_thr",
        "save_logits": "save_predictions save_outputs",
        "evaluators": "metrics metric",
        "feature_cache": "cache cache_features use_cache",
        "deterministic": "cudnn_deterministic reproducible",
        "v.lora_dim": "rank lora_rank lora_r lora_dim v.lora_rank v.lora_r",
        "v.adaptformer_dim": "bottleneck bottleneck_dim adaptformer_dim",
        "v.pt_len": "num_prompts prompt_length prompt_len num_tokens n_prompts pt_len",
        "v.aft_ratio": "aft_ratio sparsity",
        "coop_ctx_len": "n_ctx ctx_len num_ctx",
        # names that are flags here
        "-d": "data dataset_name task",
        "-b": "model arch architecture model_name clip_model network",
        "-m": "method peft peft_method tuning algorithm",
    }
)
OTHER_NAMES = _by_other_name(  # of data sets, backbones, methods and schemes of addresses
    {
        "imagenet_lt": "imagenet imagenet1k ilsvrc ilsvrc2012",
        "places_lt": "places places365",
        "inat2018": "inat inaturalist inaturalist2018 inat18",
        "cifar100_ir100": "cifar100_lt cifar cifar_lt",
        "digits_lt": "digits",
        "folder": "imagefolder custom",
        "clip_vit_b16": "vit_b16 vit_b_16 vit_base_patch16_224 clip clip_b16 vit_b",
        "clip_vit_b32": "vit_b32 clip_b32",
        "clip_vit_l14": "vit_l14 clip_l14 vit_l",
        "clip_vit_l14@336px": "vit_l14_336 vit_l14_336px clip_vit_l14_336",
        "clip_rn50": "rn50 clip_resnet50",
        "clip_rn101": "rn101 clip_resnet101",
        "in1k_rn50": "resnet50",
        "in1k_rn101": "resnet101",
        "in1k_rn152": "resnet152 rn152",
        "laion2b_vit_b16": "laion laion2b openclip laion_vit_b16",
        "laion2b_vit_h14": "vit_h14 vit_h",
        "datacomp_vit_b16": "datacomp",
        "dfn_vit_b16": "dfn dfn2b",
        "metaclip_vit_b16": "metaclip",
        "eva02_vit_b16": "eva02 eva eva02_clip",
        "bioclip_vit_b16": "bioclip",
        "bioclip2_vit_l14": "bioclip2",
        "siglip2_vit_b16": "siglip siglip2 siglip_vit_b16 siglip_b16",
        "pe_core_vit_b16": "pe pe_core perception_encoder",
        "dinov2_vit_b14": "dino dinov2 vit_base_patch14_dinov2",
        "dinov2_reg_vit_b14": "dinov2_vit_b14_reg vit_base_patch14_reg4_dinov2",
        "dinov3_vit_b16": "dinov3 vit_base_patch16_dinov3",
        "in21k_vit_t16": "vit_t16 vit_tiny vit_tiny_patch16_224",
        "in21k_vit_s16": "vit_s16 vit_small vit_small_patch16_224",
        # schemes of addresses
        "hf-hub": "hf huggingface hub",
        "lift+": "liftplus adaptformer",
        "lift": "pel",
        "zs": "zeroshot zsclip",
        "lp": "linear linear_probe linear_probing",
        "fft": "full full_finetuning finetune finetuning ft",
        "pt": "vpt prompt_tuning visual_prompt_tuning",
        "bitfit": "bias_tuning bias",
        "ln_tuning": "layernorm ln",
        "proj_tuning": "projection",
    }
)
OTHER_VALUES = _by_other_name(
    {
        "CE": "cross_entropy xent softmax cross_entropy_loss",
        "LA": "logit_adjustment logit_adjusted",
        "BS": "balanced_softmax",
        "CB": "class_balanced",
        "Focal": "focal_loss",
        "GRW": "reweighting reweight weighted",
        "AdamW": "adam",
        "fp16": "half float16 16",
        "bf16": "bfloat16",
        "fp32": "float32 float full 32",
        "amp": "mixed",
        "CosineClassifier": "cosine cos",
        "LinearClassifier": "linear fc",
        "L2NormClassifier": "l2norm l2",
        "LayerNormClassifier": "layernorm",
        "semantic": "text clip",
        "class_mean": "class_means prototype prototypes",
        "linear_probing": "linear_probe lp",
        "True": "yes y 1 on t",
        "False": "no n 0 off f",
        "warmup_cosine": "warmup linear_warmup",
        "calibration": "ece",
        "accuracy": "acc top1",
        "attn": "attention",
    }
)


# ---- suggestions ----


def nearest_key(name: str, keys: Collection[str]) -> str | None:
    """The key, one of `keys`, or the flag nearest to `name`; None if none is near."""
    return _nearest(name, [*keys, "-d", "-b", "-m"], OTHER_KEYS)


def nearest_name(name: str, names: Collection[str]) -> str | None:
    """The data set, backbone, method or model nearest to `name`, one of `names`; None if none is near."""
    return _nearest(name, names, OTHER_NAMES)


def nearest_value(text: str, choices: Collection[str]) -> str | None:
    """The value nearest to `text`, one of `choices`; None if none is near."""
    return _nearest(text, choices, OTHER_VALUES)


def _nearest(name: str, choices: Collection[str], others: Mapping[str, str]) -> str | None:
    """The choice with the same letters and digits, by its other name, or with a typing error."""
    by_letters: dict[str, str] = {}
    for choice in choices:
        by_letters.setdefault(_letters(choice), choice)
    letters = _letters(name)[:100]
    if letters in by_letters:
        return by_letters[letters]
    if others.get(letters) in choices:
        return others[letters]
    numbers = re.sub(r"\D", "", letters)  # inat2021 and cifar10 are different data sets
    alike = [each for each in by_letters if not numbers or re.sub(r"\D", "", each) == numbers]
    close = difflib.get_close_matches(letters, alike, 1, CUTOFF)
    return by_letters[close[0]] if close else None
