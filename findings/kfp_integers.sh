#!/usr/bin/env bash
# KFP's parameters are protobuf values, whose only number is a 64-bit float. Between two tasks of its local runner, an
# integer parameter is cast back, but integers inside a list or a dictionary arrive as floats, and any integer above
# 2**53 is rounded without a word.
#
# Seen, kfp 2.17.0, given 9007199254740993 alone and in {"seed": 9007199254740993, "fold": 1}:
# "arrived: 9007199254740992 {'seed': 9007199254740992.0, 'fold': 1.0}"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet kfp==2.17.0
cat >pipeline.py <<'PYTHON'
import pathlib

from kfp import dsl, local


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def show(alone: int, inside: dict) -> None:
    with open("arrived", "w") as file:
        file.write(f"{alone} {dict(sorted(inside.items(), reverse=True))}")


@dsl.pipeline
def numbers(alone: int, inside: dict):
    show(alone=alone, inside=inside)


local.init(local.SubprocessRunner(use_venv=False), pipeline_root="root")
numbers(alone=9007199254740993, inside={"seed": 9007199254740993, "fold": 1})
arrived = pathlib.Path("arrived").read_text()
print(f"arrived: {arrived}")
raise SystemExit(arrived != "9007199254740992 {'seed': 9007199254740992.0, 'fold': 1.0}")
PYTHON
PATH="$folder/venv/bin:$PATH" venv/bin/python -W ignore pipeline.py
