#!/usr/bin/env bash
# The classifiers, with LIFT+ otherwise as it is (arXiv 2504.13282), and the scale of the cosine classifier.
#   scripts/run_classifiers.sh [--help] [--dry-run] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

for data in imagenet_lt places_lt cifar100_ir100; do
  for classifier in LinearClassifier L2NormClassifier LayerNormClassifier; do
    echo "-d $data -b clip_vit_b16 -m lift+ classifier $classifier"
  done
  for scale in 15 20 25 30 35; do
    echo "-d $data -b clip_vit_b16 -m lift+ classifier CosineClassifier classifier_scale $scale"
  done
done | "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
