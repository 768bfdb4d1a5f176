#!/usr/bin/env bash
# A machine without eo_ssl: a second environment with TerraTorch and rslearn opens a bundle of `eo-ssl export` and compares features.
#
#   tests/second_environment/run.sh BUNDLE [FOLDER]     FOLDER keeps the environment; default: build/second-environment
#
# One .pth line lets it see the packages of .venv, so that torch is not fetched twice. Python reads no .pth files of a folder that
# was added so, and an editable install is one: `import eo_ssl` fails there, which is checked first.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
bundle="$(cd "${1:?usage: run.sh BUNDLE [FOLDER]}" && pwd)"
folder="${2:-$root/build/second-environment}"
first="$("$root/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

if [ ! -x "$folder/bin/python" ]; then
  "$root/.venv/bin/python" -m venv "$folder"
  second="$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  echo "$first" > "$second/first_environment.pth"
fi
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check "terratorch>=1.2,<1.3" "rslearn>=0.1.19,<0.2"

cd "$bundle" # not the checkout, where eo_ssl could be imported from the current folder
PYTHONPATH="" PYTHONSAFEPATH=1 "$folder/bin/python" "$root/tests/second_environment/open_bundle.py" "$bundle"
