#!/usr/bin/env bash
# The initialisation of the head (LIFT, arXiv 2309.10019, table 7): random, mean features, logistic regression.
# --more: from the class names, which is LIFT itself, and from few images per class.
#   scripts/run_lift_inits.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt $(more cifar100_ir100); do
  for init in None class_mean linear_probe $(more text_feat 1_shot 10_shot 100_shot); do
    with_tte "-d $data -m clip_vit_b16 adaptformer True init_head $init"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
