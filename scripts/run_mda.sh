#!/usr/bin/env bash
# Minimalist data augmentation (LIFT+, arXiv 2504.13282): the schedule of the smallest crop.
# --more: the standard augmentation.
#   scripts/run_mda.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
  run="-d $data -b clip_vit_b16 -m lift+ $(epochs $data 15)"
  for schedule in min convex linear concave max; do
    with_tte "$run mda_func $schedule"
  done
  if [[ $with_more == yes ]]; then
    with_tte "$run mda False"
  fi
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
