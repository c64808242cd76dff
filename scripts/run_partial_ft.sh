#!/usr/bin/env bash
# Partial fine-tuning (LIFT+, arXiv 2504.13282): the last k blocks are trained, from none to all twelve, at six learning
# rates.
#   scripts/run_partial_ft.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
  for layers in 0 1 2 3 6 9 12 $(more 4 5 7 8 10 11); do
    for lr in 0.03 0.02 0.01 0.005 0.002 0.001; do
      echo "-d $data -b clip_vit_b16 -m fft $(epochs $data 15) v.fft_layers $layers lr $lr"
    done
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
