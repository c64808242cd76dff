#!/usr/bin/env bash
# Five seeds of each method on digits_lt with clip_tiny, as many runs at once as there are cores; then their table.
#   scripts/run_digits.sh [KEY VALUE ...]
# A run that has its results.json is not run again; of a run that fails the last line is shown, and the status is 1.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
export GROUP=digits$( (($#)) && printf '_%s' "$@")

run() { # METHOD SEED [KEY VALUE ...]
  local method=$1 seed=$2 name=$GROUP/digits_lt_clip_tiny_$1_seed_$2
  shift 2
  [ -f "output/$name/results.json" ] && return
  mkdir -p "output/$name"
  "$PYTHON" main.py -d digits_lt -b clip_tiny -m "$method" seed "$seed" "$@" output_dir "$name" \
    >"output/$name/terminal.txt" 2>&1 || { tail -n 1 "output/$name/terminal.txt" && return 1; }
}
export -f run

status=0
{
  echo zs 0 # nothing in it depends on the seed
  for method in lp lift+ lora pt bitfit fft; do
    for seed in 0 1 2 3 4; do echo "$method $seed"; done
  done
} | xargs -P "$(nproc)" -I {} bash -c 'run {} "$@"' run "$@" || status=1
"$PYTHON" scripts/collect_results.py "output/$GROUP"
exit $status
