#!/usr/bin/env bash
# Accuracy on the training images (LIFT, arXiv 2309.10019, table 8): the head alone (`partial 0` of full fine-tuning)
# and full fine-tuning, each at its best learning rate and at 0.01, and AdaptFormer.
#   scripts/run_lift_train_accuracy.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
  case $data in
    imagenet_lt | cifar100_ir100) head_lr=0.02 full_lr=0.0005 ;;
    places_lt) head_lr=0.02 full_lr=0.001 ;;
    inat2018) head_lr=0.01 full_lr=0.005 ;;
  esac
  for options in "full_tuning True partial 0 lr $head_lr" "full_tuning True partial 0 lr 0.01" \
    "full_tuning True partial 12 lr $full_lr" "full_tuning True partial 12 lr 0.01" "adaptformer True"; do
    echo "-d $data -m clip_vit_b16 $options $(epochs $data 20)"
    echo "-d $data -m clip_vit_b16 $options $(epochs $data 20) test_train True"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
