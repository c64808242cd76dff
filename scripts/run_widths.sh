#!/usr/bin/env bash
# Bottleneck widths of AdaptFormer in LIFT+ (arXiv 2504.13282).
#   scripts/run_widths.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt cifar100_ir100; do
  for width in 1 2 4 8 16 32 64 128 256; do
    echo "-d $data -b clip_vit_b16 -m lift+ v.adaptformer_dim $width"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
