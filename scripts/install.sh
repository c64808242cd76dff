#!/usr/bin/env bash
# Makes .venv from a Python, 3.10 or newer, and installs requirements.txt into it: scripts/install.sh [PYTHON]
# `make` runs it before its first target, and again when requirements.txt changes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
log=.venv/pip.log

fail() {
    echo "error: $1" >&2
    exit 1
}

command -v "$python" > /dev/null || fail "there is no $python; name another: make PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "Python 3.10 or newer is needed, found $("$python" --version); name another: make PYTHON=python3.12"
"$python" -c 'import ensurepip' 2> /dev/null ||
    fail "this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"

echo "installing into .venv: about 3 GB to download, 6 GB on disk (PyTorch with CUDA)"
"$python" -m venv .venv
rm -f "$log"
.venv/bin/python -m pip install --disable-pip-version-check --log "$log" -r requirements.txt && exit

failed_because() { grep -qsE "$1" "$log"; }

if failed_because 'No space left on device|Disk quota exceeded'; then
    fail "the disk is full: .venv needs 6 GB, and pip's temporary folder 3 GB (TMPDIR=FOLDER chooses another one); \
free some space, then run the same command again"
elif failed_because 'ConnectionError|ConnectTimeout|ReadTimeout|NameResolution|ProxyError|SSLError|ConnectionReset'; then
    fail "the packages of requirements.txt are missing, as the package index cannot be reached; check the network and \
the proxy (https_proxy), name another index (PIP_INDEX_URL=URL) or a folder of wheels (PIP_NO_INDEX=1 \
PIP_FIND_LINKS=FOLDER), then run the same command again: pip keeps finished downloads"
else
    fail "pip could not install requirements.txt; its last lines above have the reason, and $log has its whole output"
fi
