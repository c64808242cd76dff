#!/usr/bin/env bash
# Bottleneck widths of AdaptFormer in LIFT+ (arXiv 2504.13282), and LIFT+ without it.
#   scripts/run_widths.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
  case $data in
    inat2018) widths="64 128 192 256 320 384 448 512" ;;
    *) widths="1 2 4 8 16 32 64 128 256" ;;
  esac
  run="-d $data -b clip_vit_b16 -m lift+ $(epochs $data 15)"
  with_tte "$run v.adaptformer False"
  for width in $widths; do
    with_tte "$run v.adaptformer_dim $width"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
