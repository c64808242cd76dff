#!/usr/bin/env bash
# The number of epochs of LIFT+ and its forerunner LIFT (arXiv 2504.13282). The learning rate falls as epochs grow:
# rate x epochs is 0.1, and on iNaturalist 0.2 for lift and 0.3 for lift+.
#   scripts/run_epochs.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

{
  for data in imagenet_lt places_lt $(more cifar100_ir100); do
    for method in lift lift+; do
      for pair in "5 lr 0.02" "10 lr 0.01" "15 lr 0.0066" "20 lr 0.005" "25 lr 0.004" "30 lr 0.0033"; do
        with_tte "-d $data -b clip_vit_b16 -m $method num_epochs $pair"
      done
    done
  done
  for pair in "5 lr 0.04" "10 lr 0.02" "15 lr 0.0133" "20 lr 0.01" "25 lr 0.008" \
    "30 lr 0.0066" "35 lr 0.0057" "40 lr 0.005" "45 lr 0.0044" "50 lr 0.004"; do
    with_tte "-d inat2018 -b clip_vit_b16 -m lift num_epochs $pair"
  done
  for pair in "5 lr 0.06" "10 lr 0.03" "15 lr 0.02" "20 lr 0.015" "25 lr 0.012" \
    "30 lr 0.01" "35 lr 0.0085" "40 lr 0.0075" "45 lr 0.0066" "50 lr 0.006"; do
    with_tte "-d inat2018 -b clip_vit_b16 -m lift+ num_epochs $pair"
  done
} | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
