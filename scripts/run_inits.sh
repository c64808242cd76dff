#!/usr/bin/env bash
# The classifier's first weights, with LIFT+ otherwise as it is (arXiv 2504.13282): random, from the class names, from
# mean features, from a logistic regression.
#   scripts/run_inits.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt cifar100_ir100; do
  for init in None semantic class_mean linear_probing; do
    echo "-d $data -b clip_vit_b16 -m lift+ classifier_init $init"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
