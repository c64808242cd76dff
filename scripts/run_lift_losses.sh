#!/usr/bin/env bash
# The losses, with LIFT otherwise unchanged (arXiv 2309.10019, table 16).
#   scripts/run_lift_losses.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
  for loss in CE Focal LDAM CB GRW LADE LA $(more BS); do
    with_tte "-d $data -m clip_vit_b16 adaptformer True $(epochs $data 20) loss_type $loss"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
