#!/usr/bin/env bash
# The fine-tuning methods (LIFT, arXiv 2309.10019, table 6). Tested with five crops: zero-shot CLIP, the head alone,
# full and arbitrary fine-tuning at their best rates and ratios. Tested with one crop: the light modules.
#   scripts/run_lift_methods.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt $(more cifar100_ir100); do
  case $data in
    places_lt) lr=0.001 ratio=0.005 ;;
    *) lr=0.0005 ratio=0.01 ;;
  esac
  with_tte "-d $data -m zsclip_vit_b16"
  with_tte "-d $data -m clip_vit_b16"
  with_tte "-d $data -m clip_vit_b16 full_tuning True lr $lr"
  with_tte "-d $data -m clip_vit_b16 mask True mask_ratio $ratio"
  for module in bias_tuning vpt_shallow vpt_deep adapter lora adaptformer \
    $(more ln_tuning lora_mlp ssf_attn ssf_mlp ssf_ln); do
    echo "-d $data -m clip_vit_b16 $module True"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
