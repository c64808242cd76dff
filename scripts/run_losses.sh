#!/usr/bin/env bash
# The losses, with LIFT+ otherwise as it is (arXiv 2504.13282).
#   scripts/run_losses.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt cifar100_ir100; do
  for loss in CE Focal LDAM CB GRW BS LA LADE; do
    echo "-d $data -b clip_vit_b16 -m lift+ loss_type $loss"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
