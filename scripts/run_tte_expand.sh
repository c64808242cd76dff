#!/usr/bin/env bash
# Test-time ensembling (LIFT+, arXiv 2504.13282): the pixels by which a test image exceeds the crop, with one crop and
# with five, for one trained model of each data set.
#   scripts/run_tte_expand.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
  run="-d $data -b clip_vit_b16 -m lift+ $(epochs $data 15)"
  echo "$run"
  for expand in 0 4 8 12 16 20 24 28 32 36 40 44 48; do
    echo "$run test_only True tte False expand $expand"
    echo "$run test_only True tte True expand $expand"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
