# Shared by the scripts run_*.sh, which source it: the option --more, which run_all.py never sees, and some functions.
#   scripts/run_losses.sh --dry-run           the cells of the papers' tables
#   scripts/run_losses.sh --dry-run --more    and those that this project adds: CIFAR-100-LT, further values
set -euo pipefail

with_more=no other_data=no
for argument; do
  shift
  case $argument in
    --more) with_more=yes && continue ;;
    -d*) other_data=yes ;; # run_all.py replaces the data sets
    -h | --help)
      sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
      printf '\n  --more                also what this project adds to the papers'"'"' cells\n\n'
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

# with_tte COMMAND: one training run, tested with one crop and then with five. All scripts can share it: with `tte True`
# in training, its results.json would have one crop or five, depending on the script that was run first.
with_tte() {
  echo "$*"
  echo "$* test_only True tte True"
}
