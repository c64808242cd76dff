#!/usr/bin/env bash
# Main results of LIFT (arXiv 2309.10019, tables 1 to 4): every data set, with one crop and with test-time ensembling,
# and CIFAR-100-LT with an ImageNet-21K ViT. 10 epochs, on iNaturalist 20. Published values: docs/reproduction.md.
# --more: zero-shot CLIP, full fine-tuning, and ImageNet-21K's ViT with test-time ensembling.
#   scripts/run_lift_main.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 cifar100_ir100 cifar100_ir50 cifar100_ir10; do
  with_tte "-d $data -m clip_vit_b16 adaptformer True $(epochs $data 20)"
  if [[ $data == cifar100_* ]]; then
    echo "-d $data -m in21k_vit_b16 adaptformer True"
  fi
  if [[ $with_more == yes ]]; then
    with_tte "-d $data -m zsclip_vit_b16"
    with_tte "-d $data -m clip_vit_b16 full_tuning True $(epochs $data 20)"
    with_tte "-d $data -m in21k_vit_b16 adaptformer True $(epochs $data 20)"
  fi
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
