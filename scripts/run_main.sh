#!/usr/bin/env bash
# Main results of LIFT+ (arXiv 2504.13282): every data set, with one crop and with test-time ensembling. At most 15
# epochs, as its abstract says: 5, and for iNaturalist 15.
#   scripts/run_main.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt inat2018 cifar100_ir100 cifar100_ir50 cifar100_ir10; do
  case $data in inat2018) epochs=15 ;; *) epochs=5 ;; esac
  run="-d $data -b clip_vit_b16 -m lift+ num_epochs $epochs"
  echo "$run"
  echo "$run test_only True tte True"
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
