#!/usr/bin/env bash
# Ablation of LIFT+ (arXiv 2504.13282): the whole, and each part left out or replaced in turn; each tested with one crop
# and with test-time ensembling, so that this is a part, too.
#   scripts/run_ablation.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

parts=(
  "lift+"
  "lp"                                # without AdaptFormer
  "fft"                               # the whole tower in its place
  "lift+ classifier_init None"        # without semantic initialisation
  "lift+ classifier LinearClassifier" # without the cosine
  "lift+ loss_type CE"                # without logit adjustment
  "lift+ mda False"                   # the standard augmentation in place of the minimalist one
)
for data in imagenet_lt places_lt cifar100_ir100; do
  for part in "${parts[@]}"; do
    run="-d $data -b clip_vit_b16 -m $part"
    echo "$run"
    echo "$run test_only True tte True"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
