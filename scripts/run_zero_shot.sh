#!/usr/bin/env bash
# Zero-shot CLIP, the baseline of LIFT+ (arXiv 2504.13282), on iNaturalist by every rank from kingdom to species,
# and the head alone. --more: all of CLIP's backbones, with one crop and with test-time ensembling.
#   scripts/run_zero_shot.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

{
  for data in imagenet_lt places_lt inat2018 inat2018_{k,p,c,o,f,g,s}; do
    echo "-d $data -b clip_vit_b16 -m zs"
  done
  for data in imagenet_lt places_lt; do
    echo "-d $data -b clip_vit_b16 -m lp lr 0.03"
  done
  for data in $(more imagenet_lt places_lt inat2018 cifar100_ir100 cifar100_ir50 cifar100_ir10); do
    for backbone in clip_rn50 clip_rn101 clip_vit_b32 clip_vit_b16 clip_vit_l14 clip_vit_l14@336px; do
      with_tte "-d $data -b $backbone -m zs"
    done
  done
} | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
