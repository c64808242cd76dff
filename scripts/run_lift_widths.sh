#!/usr/bin/env bash
# Bottleneck widths of AdaptFormer (LIFT, arXiv 2309.10019, figure 6), and the head alone.
#   scripts/run_lift_widths.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
  case $data in
    inat2018) widths="64 128 192 256 320 384 448 512" ;;
    *) widths="1 2 4 8 16 32 64 128 256" ;;
  esac
  run="-d $data -m clip_vit_b16 $(epochs $data 20)"
  with_tte "$run"
  for width in $widths; do
    with_tte "$run adaptformer True adapter_dim $width"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
