#!/usr/bin/env bash
# DVC 3.67.1 writes a value of params.yaml into a command as its YAML reader sees it, not as the file has it: 1.10
# becomes 1.1, 0012345 loses its zeros, an empty value becomes None. Nothing is quoted or escaped: within the double
# quotes of the command, the shell still expands what looks like a variable.
#
# Seen: "1.1|12345|123400000.0|None|bob|" from the values of `params.yaml` below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dvc==3.67.1
cd "$folder"
git init --quiet
venv/bin/dvc init --quiet
cat >params.yaml <<'YAML'
tag: 1.10
commit: 0012345
short: 1234e5
branch:
owner: $OWNER
YAML
cat >dvc.yaml <<'YAML'
stages:
  show:
    cmd: printf '%s|' "${tag}" "${commit}" "${short}" "${branch}" "${owner}" > seen
YAML
OWNER=bob venv/bin/dvc repro --quiet
cat seen
[ "$(cat seen)" = '1.1|12345|123400000.0|None|bob|' ]
