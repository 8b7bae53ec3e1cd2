#!/usr/bin/env bash
# The same pipeline, compiled twice by KFP, may be two files that differ: the comment above the specification lists the
# default of a dictionary with its keys in the order of a protobuf map, which differs between processes, also with
# PYTHONHASHSEED=0. The specification itself is sorted.
#
# Seen, kfp 2.17.0, protobuf 6.33: "8 compilations: 8 different files, 1 without comments"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet kfp==2.17.0
cat >pipeline.py <<'PYTHON'
from kfp import dsl


@dsl.component(base_image="python:3.11")
def show(labels: dict):
    print(labels)


@dsl.pipeline
def pipeline(labels: dict = {"a": "1", "b": "2", "c": "3", "d": "4", "e": "5", "f": "6"}):
    show(labels=labels)
PYTHON
for number in 1 2 3 4 5 6 7 8; do
    PYTHONHASHSEED=0 venv/bin/kfp dsl compile --py pipeline.py --output "$number.yaml" >/dev/null
    grep -v '^#' "$number.yaml" >"$number.bare"
done
files=$(sha256sum ./*.yaml | cut -d' ' -f1 | sort -u | wc -l)
bare=$(sha256sum ./*.bare | cut -d' ' -f1 | sort -u | wc -l)
echo "8 compilations: $files different files, $bare without comments"
[[ $files -gt 1 && $bare -eq 1 ]]
