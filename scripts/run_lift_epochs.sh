#!/usr/bin/env bash
# The number of epochs of LIFT (arXiv 2309.10019, table 14), at one learning rate.
#   scripts/run_lift_epochs.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
  for epochs in 5 10 20 30; do
    with_tte "-d $data -m clip_vit_b16 adaptformer True num_epochs $epochs"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
