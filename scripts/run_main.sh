#!/usr/bin/env bash
# Main results of LIFT+ (arXiv 2504.13282): every data set with CLIP and, except for ImageNet-LT, with a ViT of
# ImageNet-21K; with one crop and with test-time ensembling. 5 epochs, on iNaturalist 15.
#   scripts/run_main.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 cifar100_ir100 cifar100_ir50 cifar100_ir10; do
  with_tte "-d $data -b clip_vit_b16 -m lift+ $(epochs $data 15)"
  if [[ $data != imagenet_lt ]]; then
    with_tte "-d $data -b in21k_vit_b16 -m lift+ $(epochs $data 15)"
  fi
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
