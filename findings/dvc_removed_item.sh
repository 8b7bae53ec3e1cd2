#!/usr/bin/env bash
# DVC 3.67.1 leaves the outputs of an item that is removed from a foreach stage on the disk. A later stage that depends on
# their folder goes on reading them, even where it runs again because of that item, and `dvc status` reports nothing.
#
# Seen: "total of a b; without b: total of a b; Data and pipelines are up to date."
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dvc==3.67.1
export PATH=$folder/venv/bin:$PATH
mkdir "$folder/work"
cd "$folder/work"
git init --quiet
dvc init --quiet
cat >dvc.yaml <<'YAML'
stages:
  part:
    foreach: ${parts}
    do:
      cmd: mkdir -p parts && echo ${item} > parts/${item}
      outs:
        - parts/${item}
  total:
    cmd: ls parts | xargs echo total of > total
    params: [parts]
    deps: [parts]
    outs: [total]
YAML
echo 'parts: [a, b]' >params.yaml
dvc repro --quiet
before=$(cat total)
echo 'parts: [a]' >params.yaml
dvc repro --quiet
after=$(cat total)
status=$(dvc status)
echo "$before; without b: $after; $status"
test "$after" = 'total of a b' && test "$status" = 'Data and pipelines are up to date.'
