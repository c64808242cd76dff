#!/usr/bin/env bash
# Five seeds of each method on digits_lt with clip_tiny, then their table. About three minutes on two cores.
#   scripts/run_digits.sh [KEY VALUE ...]
# A run that has its results.json is not run again.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
for method in zs lp lift+ lora pt bitfit fft; do
  for seed in 0 1 2 3 4; do
    name=digits_${method}_seed_${seed}
    [ "$method" = zs ] && [ "$seed" != 0 ] && continue # nothing in it depends on the seed
    [ -f "output/digits/$name/results.json" ] && continue
    "$python" main.py -d digits_lt -b clip_tiny -m "$method" seed "$seed" "$@" output_dir "digits/$name" >/dev/null
  done
done
"$python" scripts/collect_results.py output/digits
