#!/usr/bin/env bash
# How many epochs LIFT+ needs (arXiv 2504.13282).
#   scripts/run_epochs.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt cifar100_ir100; do
  for epochs in 5 10 15 20 30 40 50; do
    echo "-d $data -b clip_vit_b16 -m lift+ num_epochs $epochs"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
