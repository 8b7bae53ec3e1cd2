#!/usr/bin/env bash
# DVC 3.67.1 passes the cells of a CSV to Vega as texts. Of an empty cell, `dvc plots show` draws the point 0; of "nan",
# none. Even then its default template draws a line across the gap: the smoothing (loess) drops the points between;
# `template: simple` leaves the gap. The same with the Vega 5.20.2 and Vega-Lite 5.2.0 that its page loads.
#
# Seen, steps 1 to 5, of which 3 has no loss (0 is at height 300):
#   "empty, default: M0,0L75,75L150,300L225,75L300,0"
#   "nan, default: M0,0L75,300L225,300L300,0"
#   "nan, simple: M0,0L75,300M225,300L300,0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dvc==3.67.1 vl-convert-python==1.9.0
cd "$folder"
git init --quiet
venv/bin/dvc init --quiet
printf 'step,loss\n1,4\n2,3\n3,\n4,3\n5,4\n' >empty.csv
printf 'step,loss\n1,4\n2,3\n3,nan\n4,3\n5,4\n' >nan.csv
cat >dvc.yaml <<'YAML'
plots:
  - empty, default: {x: step, y: {empty.csv: loss}}
  - nan, default: {x: step, y: {nan.csv: loss}}
  - nan, simple: {x: step, y: {nan.csv: loss}, template: simple}
YAML
venv/bin/dvc plots show --json >shown.json
venv/bin/python - <<'PYTHON'
import json
import re
import sys

import vl_convert

lines = {}
with open("shown.json") as file:
    for name, (plot,) in json.load(file)["data"].items():
        picture = vl_convert.vegalite_to_svg(plot["content"], vl_version="5.8")
        lines[name] = re.search(r'<g class="mark-line.*? d="([^"]*)"', picture, re.S)[1]
        print(f"{name}: {lines[name]}")
gaps = [line.count("M") - 1 for line in lines.values()]
sys.exit(gaps != [0, 0, 1] or ",300" not in lines["empty, default"])
PYTHON
