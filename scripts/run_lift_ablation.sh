#!/usr/bin/env bash
# Ablation of LIFT (arXiv 2309.10019, table 5): the head alone with cross entropy, then one change at a time:
# AdaptFormer, the LA loss, semantic initialisation, test-time ensembling.
#   scripts/run_lift_ablation.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt $(more cifar100_ir100); do
  run="-d $data -m clip_vit_b16"
  echo "$run loss_type CE init_head None"
  echo "$run adaptformer True loss_type CE init_head None"
  echo "$run adaptformer True loss_type LA init_head None"
  with_tte "$run adaptformer True loss_type LA init_head text_feat"
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
