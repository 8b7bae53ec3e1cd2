#!/usr/bin/env bash
# SIGTERM ends dvc 3.67.1 at once, but not the command of the stage that it is running: the command continues without
# dvc and may still write the stage's outputs while the next `dvc repro` removes them and runs the command again.
# (Ctrl-C reaches both, as a terminal sends SIGINT to the whole process group.)
#
# Seen: "dvc ended with 143; the stage's command is running"
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(cat "$folder/pid") 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dvc==3.67.1
mkdir "$folder/repository"
cd "$folder/repository"
"$folder/venv/bin/dvc" init --no-scm --quiet
cat > dvc.yaml <<YAML
stages:
  train:
    cmd: python3 -c "import os, time; open('$folder/pid', 'w').write(str(os.getpid())); time.sleep(300)"
YAML
"$folder/venv/bin/dvc" repro > /dev/null &
dvc=$!
until [ -s "$folder/pid" ]; do sleep 0.1; done
kill -TERM $dvc
code=0
wait $dvc || code=$?
sleep 2
if kill -0 "$(cat "$folder/pid")" 2>/dev/null; then state="running"; else state="gone"; fi
echo "dvc ended with $code; the stage's command is $state"
[ "$code" = 143 ] && [ "$state" = running ]
