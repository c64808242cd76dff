#!/usr/bin/env bash
# The losses, with LIFT+ otherwise unchanged (arXiv 2504.13282).
#   scripts/run_losses.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
  for loss in CE Focal LDAM CB GRW LADE LA $(more BS); do
    with_tte "-d $data -b clip_vit_b16 -m lift+ $(epochs $data 15) loss_type $loss"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
