#!/usr/bin/env bash
# Arbitrary fine-tuning (LIFT+, arXiv 2504.13282): the fraction of trainable entries, at six learning rates.
# --more: also their position in a block, at the default learning rate.
#   scripts/run_aft_ratios.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt $(more cifar100_ir100); do
  for ratio in 0.001 0.002 0.005 0.01 0.02 0.05 0.1 0.2 0.5 1.0; do
    for lr in 0.03 0.02 0.01 0.005 0.002 0.001; do
      echo "-d $data -b clip_vit_b16 -m aft v.aft_ratio $ratio lr $lr"
    done
    for place in $(more attn mlp); do
      echo "-d $data -b clip_vit_b16 -m aft v.aft_ratio $ratio v.aft_loc $place"
    done
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
