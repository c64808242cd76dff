#!/usr/bin/env bash
# Main results of PEL, also called LIFT (arXiv 2309.10019), in its own form of the command: zero-shot CLIP, full
# fine-tuning and PEL, each with one crop and with test-time ensembling. 10 epochs, for iNaturalist 20.
# Published values: scripts/published.yaml; the table that this ends with shows them.
#   scripts/run_pel.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt inat2018 cifar100_ir100 cifar100_ir50 cifar100_ir10; do
  case $data in inat2018) epochs=20 ;; *) epochs=10 ;; esac
  echo "-d $data -m zsclip_vit_b16"
  echo "-d $data -m zsclip_vit_b16 test_only True tte True"
  echo "-d $data -m clip_vit_b16_ft num_epochs $epochs"
  echo "-d $data -m clip_vit_b16_ft num_epochs $epochs test_only True tte True"
  echo "-d $data -m clip_vit_b16_peft num_epochs $epochs" # it tests with five crops
  echo "-d $data -m clip_vit_b16_peft num_epochs $epochs test_only True tte False"
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
