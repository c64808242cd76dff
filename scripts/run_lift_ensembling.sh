#!/usr/bin/env bash
# Ways of test-time ensembling (LIFT, arXiv 2309.10019, table 12), for one trained model: five crops, ten with their
# mirror images, and 5 to 20 draws of the training augmentation.
#   scripts/run_lift_ensembling.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt $(more places_lt cifar100_ir100); do
  run="-d $data -m clip_vit_b16 adaptformer True"
  echo "$run"
  for mode in fivecrop tencrop; do
    echo "$run test_only True tte True tte_mode $mode"
  done
  for times in 5 10 15 20; do
    echo "$run test_only True tte True tte_mode randaug randaug_times $times"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
