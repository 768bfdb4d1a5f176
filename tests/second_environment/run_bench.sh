#!/usr/bin/env bash
# torchgeo-bench runs the encoder of a bundle on chips in EuroSAT's layout; it needs Python 3.12 or later and fetches its own torch.
#
#   tests/second_environment/run_bench.sh BUNDLE [PYTHON] [FOLDER]
#
# BUNDLE: of an encoder of Sentinel-2 top-of-atmosphere reflectance. FOLDER keeps the environment; default: build/bench-environment.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
bundle="$(cd "${1:?usage: run_bench.sh BUNDLE [PYTHON] [FOLDER]}" && pwd)"
folder="${3:-$root/build/bench-environment}"

if [ ! -x "$folder/bin/torchgeo-bench" ]; then
  "${2:-python3.12}" -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "torchgeo-bench>=0.4,<0.5"
fi
PYTHONPATH="$root/tests" "$root/.venv/bin/python" -c "import sys; from worlds.benchmarks import make_eurosat; make_eurosat(sys.argv[1], seed=3, per_class=20)" \
  "$folder/run/data/eurosat"

cd "$bundle" # not the checkout, where eo_ssl could be imported from the current folder
PYTHONPATH="" PYTHONSAFEPATH=1 "$folder/bin/python" -W ignore "$root/tests/second_environment/open_in_bench.py" "$bundle" "$folder/run"
