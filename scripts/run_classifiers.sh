#!/usr/bin/env bash
# The classifiers, with LIFT+ otherwise unchanged (arXiv 2504.13282), and the scale of the cosine classifier.
#   scripts/run_classifiers.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail
source "$(dirname "$0")/grids.sh"

for data in imagenet_lt places_lt inat2018 $(more cifar100_ir100); do
  run="-d $data -b clip_vit_b16 -m lift+ $(epochs $data 15)"
  for classifier in LinearClassifier L2NormClassifier $(more LayerNormClassifier); do
    with_tte "$run classifier $classifier"
  done
  for scale in 15 20 25 30 35; do
    with_tte "$run classifier CosineClassifier classifier_scale $scale"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
