#!/usr/bin/env bash
# PEL is the name of LIFT's first release: its main results are those of scripts/run_lift_main.sh, which this runs.
#   scripts/run_pel.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

exec "$(dirname "$0")/run_lift_main.sh" "$@" # and that pipes into run_all.py
