#!/usr/bin/env bash
# The fine-tuning methods (LIFT+, arXiv 2504.13282), from none (zs) over the head alone (lp) to the whole tower (fft).
#   scripts/run_methods.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt cifar100_ir100; do
  for method in zs coop proj_tuning clip_adapter lp fft bitfit ln_tuning pt lora adapter ssf aft lift+; do
    echo "-d $data -b clip_vit_b16 -m $method"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
