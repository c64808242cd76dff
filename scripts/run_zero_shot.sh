#!/usr/bin/env bash
# Zero-shot CLIP, with one crop and with test-time ensembling, which both papers compare with (LIFT, arXiv 2309.10019;
# LIFT+, arXiv 2504.13282). Nothing trains.
#   scripts/run_zero_shot.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt inat2018 cifar100_ir100 cifar100_ir50 cifar100_ir10; do
  for backbone in clip_rn50 clip_rn101 clip_vit_b32 clip_vit_b16 clip_vit_l14 clip_vit_l14@336px; do
    echo "-d $data -b $backbone -m zs"
    echo "-d $data -b $backbone -m zs test_only True tte True"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
