#!/usr/bin/env bash
# The initialisation of the classifier, with LIFT+ otherwise unchanged (arXiv 2504.13282): random, logistic regression,
# mean features, class names.
#   scripts/run_inits.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt $(more cifar100_ir100); do
  for init in None linear_probing class_mean semantic; do
    with_tte "-d $data -b clip_vit_b16 -m lift+ classifier_init $init"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
