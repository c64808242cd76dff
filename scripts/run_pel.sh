#!/usr/bin/env bash
# Runs scripts/run_lift_main.sh: LIFT's main results. LIFT was first released as PEL.
#   scripts/run_pel.sh [--help] [--dry-run] [--more] [--only REGEX] [KEY VALUE ...]
set -euo pipefail

exec "$(dirname "$0")/run_lift_main.sh" "$@" # and that pipes into run_all.py
