#!/usr/bin/env bash
# Ablation of LIFT+ (arXiv 2504.13282): the head alone with the LA loss, then one addition at a time: AdaptFormer,
# semantic initialisation, minimalist augmentation, test-time ensembling.
# --more: LIFT+ with each component removed or replaced in turn.
#   scripts/run_ablation.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt $(more cifar100_ir100); do
  run="-d $data -b clip_vit_b16 -m"
  echo "$run lp v.adaptformer False classifier_init None mda False"
  echo "$run lp v.adaptformer True classifier_init None mda False"
  echo "$run lp v.adaptformer True classifier_init semantic mda False"
  with_tte "$run lp v.adaptformer True classifier_init semantic mda True"
  for part in $(more classifier_init=None classifier=LinearClassifier loss_type=CE mda=False v.adaptformer=False); do
    with_tte "$run lift+ ${part/=/ }"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
