#!/usr/bin/env bash
# The texts of semantic initialisation (LIFT, arXiv 2309.10019, table 13), and random initialisation. The sentences of
# `descriptor` come from a JSON file {class name: [sentences]}, data/imagenet_descriptors.json or another one:
#   scripts/run_lift_prompts.sh --only descriptor prompt_file FILE
#   scripts/run_lift_prompts.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt $(more places_lt cifar100_ir100); do
  run="-d $data -m clip_vit_b16 adaptformer True"
  with_tte "$run init_head None"
  for prompt in classname default ensemble; do
    with_tte "$run prompt $prompt"
  done
  with_tte "$run prompt descriptor prompt_file data/${data%%_*}_descriptors.json"
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
