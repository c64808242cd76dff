#!/usr/bin/env bash
# Partial fine-tuning (LIFT, arXiv 2309.10019, figure 10): the last k blocks are trained, from none to all twelve, at six
# learning rates.
#   scripts/run_lift_partial.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
  for layers in 0 1 2 3 6 9 12 $(more 4 5 7 8 10 11); do
    for lr in 0.02 0.01 0.005 0.002 0.001 0.0005; do
      echo "-d $data -m clip_vit_b16 full_tuning True partial $layers $(epochs $data 20) lr $lr"
    done
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
