#!/usr/bin/env bash
# Test-time ensembling (LIFT+, arXiv 2504.13282): by how many pixels a test image exceeds the crop, with one crop and
# with five, of one trained model for each data set.
#   scripts/run_tte_expand.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt cifar100_ir100; do
  run="-d $data -b clip_vit_b16 -m lift+"
  echo "$run"
  for expand in 0 8 16 24 32 40 48; do
    echo "$run test_only True tte False expand $expand"
    echo "$run test_only True tte True expand $expand"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
