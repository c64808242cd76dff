# Sourced by the scripts run_*.sh: the option --more, which is not passed to run_all.py, and functions.
#   scripts/run_losses.sh --dry-run           the cells of the papers' tables
#   scripts/run_losses.sh --dry-run --more    also the cells that this project adds: CIFAR-100-LT, more values
set -euo pipefail

with_more=no other_data=no
for argument; do
  shift
  case $argument in
    --more) with_more=yes && continue ;;
    -d*) other_data=yes ;; # run_all.py replaces the data sets
    -h | --help)
      sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
      printf '\n  --more                also the cells that this project adds to those of the papers\n\n'
      ;;
  esac
  set -- "$@" "$argument"
done

# more WORD ...: the words with --more, nothing without it
more() {
  [[ $with_more == no ]] || echo "$@"
}

# epochs DATA NUMBER: the option for the longer training on iNaturalist; nothing for other data sets
epochs() {
  [[ $1 != inat2018* || $other_data == yes ]] || echo "num_epochs $2"
}

# with_tte COMMAND: one training run, tested with one crop and then with five, so that all scripts can share the run:
# with `tte True` in training, results.json would be of one crop or of five, depending on the script that runs first.
with_tte() {
  echo "$*"
  echo "$* test_only True tte True"
}
