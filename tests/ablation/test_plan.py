"""Which runs tables need."""

from __future__ import annotations

import json
from itertools import combinations

import pytest

from xkd.ablation.pipeline import plan_items
from xkd.ablation.plan import plan_runs, run_preset, snapshot_epochs
from xkd.ablation.tables import all_tables, find_tables
from xkd.config.overrides import to_dict
from xkd.config.presets import get_preset
from xkd.config.presets.paper_results import paper_results
from xkd.errors import UserError


@pytest.mark.parametrize("scale", ["paper", "small"])
def test_a_configuration_is_trained_once_per_seed(scale: str) -> None:
    tables = find_tables(["all"])
    runs = plan_runs(tables, scale, 3).runs
    distinct = set()
    for run in runs:
        settings = to_dict(run.config)
        seed = settings.pop("run")["seed"]
        del settings["preset"]
        distinct.add((json.dumps(settings), seed))
    assert len(runs) == len(distinct) == len({run.name for run in runs})
    presets = {preset for table in tables for preset in table.presets}
    impossible = {"paper": set(), "small": {"local_seconds_4_1"}}[scale]
    assert len(runs) == 3 * len(presets - impossible)


def test_tables_share_the_runs_of_the_default() -> None:
    for a, b in combinations(["S9", "S10", "S13"], 2):
        both = {run.name: run for run in plan_runs(find_tables([a, b]), "small", 1).runs}
        alone = [plan_runs(find_tables([name]), "small", 1).runs for name in (a, b)]
        assert {run.name for runs in alone for run in runs} == both.keys()
        assert all(run.config == both[run.name].config for runs in alone for run in runs)
        assert len(both) == sum(map(len, alone)) - 1  # preset ablation


def test_presets_with_equal_settings_share_their_runs() -> None:
    assert run_preset("epochs_400", "paper") == "temperature_010_007"
    assert run_preset("epochs_200", "paper") == "epochs_200"


def test_a_run_has_its_snapshots_whichever_table_asks_for_it() -> None:
    runs = {run.name: run for run in plan_runs(find_tables(["S15"]), "small", 1).runs}
    epochs = get_preset("paper@small").optim.epochs
    assert runs["paper-seed0"].config.run.snapshots == (epochs // 4, epochs // 2, 3 * epochs // 4)
    assert runs["xkd_mas-seed0"].config.run.snapshots == ()
    assert snapshot_epochs(all_tables()["S6"], "paper", ()) == [200, 400, 600]


@pytest.mark.parametrize(("epochs", "snapshots"), [(40, (10, 20, 30)), (4, (1, 2, 3)), (2, (1,)), (1, ())])
def test_snapshots_are_shares_of_the_epochs_that_are_set(epochs: int, snapshots: tuple[int, ...]) -> None:
    (run,) = plan_runs(
        find_tables(["S6"]), "small", 1, [f"optim.epochs={epochs}", "optim.warmup_epochs=0"]
    ).runs
    assert run.config.run.snapshots == snapshots


def test_settings_are_laid_over_every_run() -> None:
    runs = plan_runs(find_tables(["S13"]), "small", 2, ["optim.lr=0.01"]).runs
    assert [run.config.run.seed for run in runs] == [0, 0, 0, 1, 1, 1]
    assert {run.config.optim.lr for run in runs} == {0.01}


def test_tables_cover_the_papers_results() -> None:
    tables = all_tables()
    assert {f"S{number}" for number in (*range(8, 17), 1, 2, 5, 6)} == tables.keys() - {"B5"}
    shown = {
        (preset, column.dataset) for t in tables.values() for preset in t.presets for column in t.columns
    }
    assert {(result.preset, result.dataset) for result in paper_results()} <= shown


@pytest.mark.parametrize(
    ("tables", "scale", "seeds", "settings", "message"),
    [
        (["S99"], "small", 1, [], r"unknown table 'S99' .*known: S8, S1, .* and all"),
        (["S9"], "large", 1, [], "unknown scale 'large'; known: paper, small"),
        (["S9"], "small", 0, [], "seeds must be at least 1, not 0"),
        (["S9"], "small", 1, ["optim.lrr=1"], r"unknown setting optim.lrr \(did you mean optim.lr"),
        (["S16"], "small", 1, ["loss.align=0.1"], r"^videomae_224@small: .* needs loss\.align=0"),
        (["S9"], "small", 1, ["run.seed=7"], "^run.seed cannot be set: each run of a table has its own"),
    ],
)
def test_a_mistake_is_one_line(
    tables: list[str], scale: str, seeds: int, settings: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan_runs(find_tables(tables), scale, seeds, settings)


def test_a_run_that_needs_larger_frames_is_found_before_the_data_is_prepared() -> None:
    with pytest.raises(UserError, match=r'^videomae_224-seed0: .* short_side=224, not 128; add "short_side'):
        plan_items("S16", "paper", 1, [], [], "out")
    assert len(plan_items("S16", "paper", 1, [], ["short_side=256"], "out")) == 4
