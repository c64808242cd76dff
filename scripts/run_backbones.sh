#!/usr/bin/env bash
# The backbones, with LIFT+ (arXiv 2504.13282): CLIP's, and those of ImageNet-21K and ImageNet-1K without a text tower.
# In a ResNet, which has no place for AdaptFormer, BitFit stands in for it, as in PEL (arXiv 2309.10019).
#   scripts/run_backbones.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt cifar100_ir100; do
  for vit in clip_vit_b32 clip_vit_b16 clip_vit_l14 clip_vit_l14@336px \
    in21k_vit_b16 in21k_vit_b16@384px in21k_vit_l16 in21k_vit_l16@384px; do
    echo "-d $data -b $vit -m lift+"
  done
  for resnet in clip_rn50 clip_rn101 in1k_rn50 in1k_rn101 in1k_rn152; do
    echo "-d $data -b $resnet -m bitfit"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
