#!/usr/bin/env bash
# Collect what benchmarks/gpu.py needs besides torch and NumPy (30 MB), for a machine that has only these:
#   benchmarks/gpu_packages.sh FOLDER [PYTHON_VERSION]
#   PYTHONPATH=FOLDER:. python benchmarks/gpu.py
# Versions are those of requirements.lock. Needs uv, or pip.
set -euo pipefail
mkdir -p "$1"
folder=$(cd "$1" && pwd) version=${2:-3.11}
cd "$(dirname "$0")/.."
names='annotated-types|pillow|pydantic|pydantic-core|pyyaml|threadpoolctl|typing-extensions|typing-inspection'
requirements=$(mktemp)
trap 'rm -f "$requirements"' EXIT
grep -oE "^($names)==[^ ;]+" requirements.lock >"$requirements"
options=(--target "$folder" --python-version "$version" --no-deps --only-binary :all: --requirement "$requirements")
if command -v uv >/dev/null; then
    uv pip install --quiet --python-platform x86_64-manylinux_2_28 "${options[@]}"
else
    python3 -m pip install --quiet --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 "${options[@]}"
fi
