"""What `xkd ablate` is given: options, or a section of params.yaml with the stages of DVC."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from xkd.ablation.plan import list_runs, plan_runs
from xkd.ablation.run import ablate
from xkd.ablation.settings import AblateConfig
from xkd.ablation.tables import find_tables
from xkd.cli import app
from xkd.config.overrides import resolve
from xkd.errors import UserError

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
SECTION = f"{PARAMS}:ablations"
RUNS: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("ablation-seed0", "align_across-seed0", "align_both-seed0"), ("S13",)
)
GIVEN = AblateConfig(tables=("S13",), data="data", out="out", runs=RUNS)


def test_params_yaml_lists_the_runs_of_its_tables() -> None:
    resolve(AblateConfig(), SECTION).check()
    printed = CliRunner().invoke(app, ["ablate", "--config", SECTION, "--params"]).stdout
    assert yaml.safe_load(printed)["ablations"] == yaml.safe_load(PARAMS.read_text())["ablations"]


def test_options_replace_those_of_the_file_and_settings_are_added() -> None:
    words = ["--set", "optim.lr=1e-3", "--downstream", "data/a b", "S14", "--config", SECTION, "--params"]
    section = yaml.safe_load(CliRunner().invoke(app, ["ablate", *words]).stdout)["ablations"]
    assert section["tables"] == ["S14"]
    assert section["downstream"] == ["data/a b"]
    assert section["settings"] == ["optim.lr=1e-3"]
    assert section["data"] == "data/embedded-prepared"
    assert [*section["runs"]] == ["ablation-seed0", "refine_softmax-seed0", "refine_without_cls-seed0"]


@pytest.mark.parametrize("scale", ["paper", "small"])
def test_runs_are_listed_with_the_tables_that_need_them_under_names_that_dvc_allows(scale: str) -> None:
    tables = find_tables(["all"])
    listed = list_runs(tables, scale, 2, ())
    assert listed.keys() == {run.name for run in plan_runs(tables, scale, 2).runs}
    assert all(re.fullmatch(r"\w+-seed[01]", name) for name in listed)
    assert listed["paper-seed1"] == ("S15", "S6", "S16")


@pytest.mark.parametrize(
    ("config", "only", "line"),
    [
        (AblateConfig(), "", "tables: must be given, as an option or in the file of --config"),
        (replace(GIVEN, data=""), "", "data: must be given"),
        (replace(GIVEN, out=""), "", "out: must be given"),
        (replace(GIVEN, seeds=2), "", "runs: ablation-seed1 is not listed; xkd ablate --config"),
        (replace(GIVEN, seeds=0), "", "seeds must be at least 1, not 0"),
        (replace(GIVEN, tables=("S13", "S14")), "", "runs: ablation-seed0 is of S13, S14; "),
        (replace(GIVEN, runs=RUNS | {"x-seed0": ()}), "", "runs: x-seed0 is in none of the tables; "),
        (GIVEN, "align_bth-seed0", r"no run 'align_bth-seed0' \(did you mean align_both-seed0"),
    ],
)
def test_what_cannot_be_made_is_one_line(config: AblateConfig, only: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        ablate(config, only)
    assert "\n" not in str(caught.value)
