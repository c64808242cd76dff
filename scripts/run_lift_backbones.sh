#!/usr/bin/env bash
# The backbones of LIFT (arXiv 2309.10019, tables 17 to 23) other than CLIP's ViT-B/16: larger ViTs, a ResNet with SSF
# and BitFit, an ImageNet-21K ViT. --more: the others.
#   scripts/run_lift_backbones.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

{
  for data in imagenet_lt places_lt inat2018; do
    for vit in clip_vit_l14 in21k_vit_b16 $(more clip_vit_l14@336px in21k_vit_b16@384px in21k_vit_l16); do
      with_tte "-d $data -m $vit adaptformer True $(epochs $data 20)"
    done
  done
  with_tte "-d inat2018 -m clip_vit_l14@336px adaptformer True $(epochs inat2018 20)"
  for data in imagenet_lt places_lt; do
    for resnet in clip_rn50 $(more clip_rn101); do
      for options in "ssf_attn True" "bias_tuning True" "ssf_attn True bias_tuning True"; do
        echo "-d $data -m $resnet $options"
      done
    done
  done
} | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
