#!/usr/bin/env bash
# In KFP's local runner, a loop over a list that is a field of the item of another loop, itself over a task's output,
# goes through the outer list once more: its tasks get items of that, and their number is that of the outer ones.
#
# Seen, kfp 2.17.0: "inner items: x, x, y, y" (expected: "a, b, c")
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet kfp==2.17.0
cat >pipeline.py <<'PYTHON'
from kfp import dsl, local


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def plan() -> list:
    return [{"name": "x", "parts": ["a", "b"]}, {"name": "y", "parts": ["c"]}]


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def show(part: str, folder: str):
    import re
    import secrets

    outer = re.search("'name': '(.)'", str(part))
    with open(f"{folder}/{secrets.token_hex(8)}", "w") as file:
        file.write(outer[1] if outer else part)


@dsl.pipeline
def pipeline(folder: str):
    planned = plan()
    with dsl.ParallelFor(planned.outputs["Output"]) as item:
        with dsl.ParallelFor(item.parts) as part:
            show(part=part, folder=folder)


if __name__ == "__main__":
    import sys

    local.init(local.SubprocessRunner(use_venv=False))
    pipeline(folder=sys.argv[1])
PYTHON
mkdir seen
venv/bin/python pipeline.py "$PWD/seen" >log 2>&1 || { cat log; exit 1; }
items=$(for file in seen/*; do cat "$file"; echo; done | sort | paste -sd, | sed 's/,/, /g')
echo "inner items: $items"
[[ $items == "x, x, y, y" ]]
