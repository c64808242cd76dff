#!/usr/bin/env bash
# Arbitrary fine-tuning (LIFT, arXiv 2309.10019, figure 4): the fraction of trainable entries, at six learning rates.
#   scripts/run_lift_mask_ratios.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt $(more cifar100_ir100); do
  for ratio in 0.001 0.002 0.005 0.01 0.02 0.05 0.1 0.2 0.5 1.0; do
    for lr in 0.02 0.01 0.005 0.002 0.001 0.0005; do
      echo "-d $data -m clip_vit_b16 mask True mask_ratio $ratio lr $lr"
    done
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
