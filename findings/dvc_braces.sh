#!/usr/bin/env bash
# DVC 3.67.1 (dvc-data 3.18.3) cannot store the outputs of any stage in a repository below a folder with braces in its
# name: it joins the path of its cache to a text with a placeholder, and formats the whole. The command of the stage
# has ended well by then, and its outputs are removed before it runs again.
#
# Seen, in a folder named {y}: "ERROR: failed to reproduce 'one': 'y'"; with "y" as the name, the stage is reproduced.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dvc==3.67.1 dvc-data==3.18.3
for name in y '{y}'; do
    mkdir "$folder/$name"
    cd "$folder/$name"
    git init --quiet
    "$folder/venv/bin/dvc" init --quiet
    cat >dvc.yaml <<'YAML'
stages:
  one:
    cmd: mkdir -p out && echo 1 > out/file
    outs: [out]
YAML
    "$folder/venv/bin/dvc" repro >"$folder/$name.log" 2>&1 || true
done
grep "Updating lock file" "$folder/y.log"
grep "^ERROR" "$folder/{y}.log"
[ "$(grep "^ERROR" "$folder/{y}.log")" = "ERROR: failed to reproduce 'one': 'y'" ]
