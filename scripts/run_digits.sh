#!/usr/bin/env bash
# All methods of configs/method, and all losses with LIFT+, on digits_lt with clip_tiny: five seeds each (one of
# zero-shot CLIP), as many runs at once as there are cores, then their table.
#   scripts/run_digits.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

here=$(dirname "$0")
{
  for file in "$here"/../configs/method/*.yaml; do
    echo "-d digits_lt -b clip_tiny -m $(basename "$file" .yaml)"
  done
  for loss in CE Focal LDAM CB GRW BS LADE; do # LA is lift+ itself
    echo "-d digits_lt -b clip_tiny -m lift+ loss_type $loss"
  done
} | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" --seeds 5 --jobs cores "$@"
