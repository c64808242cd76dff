#!/usr/bin/env bash
# Partial fine-tuning (LIFT+, arXiv 2504.13282; PEL's `partial`): the last k blocks train, from none to all twelve.
#   scripts/run_partial_ft.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt cifar100_ir100; do
  for layers in {0..12}; do
    echo "-d $data -b clip_vit_b16 -m fft v.fft_layers $layers"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
