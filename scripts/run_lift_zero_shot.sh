#!/usr/bin/env bash
# Zero-shot CLIP, on iNaturalist by every rank from kingdom to species, and the head alone (LIFT, arXiv 2309.10019,
# figure 2). --more: all of CLIP's backbones, with one crop and with test-time ensembling.
#   scripts/run_lift_zero_shot.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

{
  for data in imagenet_lt places_lt inat2018_{k,p,c,o,f,g,s}; do
    echo "-d $data -m zsclip_vit_b16"
  done
  for data in imagenet_lt places_lt; do
    echo "-d $data -m clip_vit_b16 lr 0.02"
  done
  for data in $(more imagenet_lt places_lt inat2018 cifar100_ir100 cifar100_ir50 cifar100_ir10); do
    for model in zsclip_rn50 zsclip_rn101 zsclip_vit_b16 zsclip_vit_l14 zsclip_vit_l14@336px; do
      with_tte "-d $data -m $model"
    done
  done
} | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
