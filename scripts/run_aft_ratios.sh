#!/usr/bin/env bash
# Arbitrary fine-tuning (LIFT+, arXiv 2504.13282): what fraction of the entries trains, and where in a block.
#   scripts/run_aft_ratios.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt cifar100_ir100; do
  for place in attn mlp all; do
    for ratio in 0.0001 0.0003 0.001 0.003 0.01 0.03 0.1 0.3 0.5; do
      echo "-d $data -b clip_vit_b16 -m aft v.aft_loc $place v.aft_ratio $ratio"
    done
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
