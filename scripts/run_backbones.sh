#!/usr/bin/env bash
# The backbones of LIFT+ (arXiv 2504.13282) other than ViT-B/16: larger ViTs with LIFT+, and a ResNet (without
# AdaptFormer) with SSF or BitFit. --more: CLIP's other backbones, and those of ImageNet-21K and ImageNet-1K.
#   scripts/run_backbones.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

{
  for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
    with_tte "-d $data -b clip_vit_l14 -m lift+ accum_step 4 $(epochs $data 15)"
  done
  for data in inat2018 $(more imagenet_lt places_lt cifar100_ir100); do
    with_tte "-d $data -b clip_vit_l14@336px -m lift+ accum_step 8 $(epochs $data 15)"
  done
  for data in imagenet_lt places_lt $(more cifar100_ir100); do
    for resnet in clip_rn50 $(more clip_rn101 in1k_rn50 in1k_rn101 in1k_rn152); do
      echo "-d $data -b $resnet -m lp v.ssf True"
      echo "-d $data -b $resnet -m lp v.bitfit True"
    done
    for vit in $(more clip_vit_b32 in21k_vit_b16 in21k_vit_b16@384px in21k_vit_l16 in21k_vit_l16@384px); do
      with_tte "-d $data -b $vit -m lift+"
    done
  done
} | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
