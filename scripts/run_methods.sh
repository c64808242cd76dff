#!/usr/bin/env bash
# The fine-tuning methods (LIFT+, arXiv 2504.13282): none (zs), the head alone (lp), the whole tower (fft) and a random
# part of it (aft) at the best learning rates of run_partial_ft.sh and run_aft_ratios.sh, and light modules.
#   scripts/run_methods.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt $(more cifar100_ir100); do
  case $data in places_lt) fft_lr=0.002 ;; *) fft_lr=0.001 ;; esac
  for method in "zs" "lp lr 0.03" "fft v.fft_layers 12 lr $fft_lr" "aft v.aft_ratio 0.005 lr 0.02"; do
    with_tte "-d $data -b clip_vit_b16 -m $method"
  done
  for module in bitfit pt adapter lora adaptformer $(more ln_tuning ssf); do
    with_tte "-d $data -b clip_vit_b16 -m lp v.$module True"
  done
  for method in $(more coop proj_tuning clip_adapter); do # CLIP's own head in place of a classifier
    with_tte "-d $data -b clip_vit_b16 -m $method"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
