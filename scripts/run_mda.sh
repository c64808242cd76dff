#!/usr/bin/env bash
# Minimalist data augmentation (LIFT+, arXiv 2504.13282): how the smallest crop grows, and the standard augmentation.
#   scripts/run_mda.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt cifar100_ir100; do
  echo "-d $data -b clip_vit_b16 -m lift+ mda False"
  for schedule in convex linear concave min max; do
    echo "-d $data -b clip_vit_b16 -m lift+ mda_func $schedule"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
