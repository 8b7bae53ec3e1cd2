"""Variables of torchrun in the environment of processes that it did not start."""

from __future__ import annotations

import os
import sys

import pytest

from xkd.cli import main
from xkd.errors import UserError
from xkd.launch.distributed import distributed_context

WORKER = {
    "TORCHELASTIC_RUN_ID": "job",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in WORKER:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "names", [("RANK",), ("WORLD_SIZE",), ("MASTER_ADDR", "MASTER_PORT"), tuple(WORKER)[1:]], ids="-".join
)
def test_variables_of_other_launchers_are_ignored(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    set_variables(monkeypatch, {name: WORKER[name] for name in names})
    with distributed_context(patience=1) as context:
        assert (context.rank, context.size) == (0, 1)


@pytest.mark.parametrize("name", tuple(WORKER)[1:])
def test_incomplete_variables_of_torchrun_are_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    set_variables(monkeypatch, {key: value for key, value in WORKER.items() if key != name})
    line = f"^TORCHELASTIC_RUN_ID is set, but {name} is not set: start the processes with torchrun, or unset"
    with pytest.raises(UserError, match=line), distributed_context(patience=1):
        pass


def test_a_variable_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, WORKER | {"RANK": "first"})
    with pytest.raises(UserError, match="but RANK is first"), distributed_context(patience=1):
        pass


def test_a_command_that_a_process_of_torchrun_starts_is_none_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, WORKER)
    monkeypatch.setattr(sys, "argv", ["xkd", "presets"])
    with pytest.raises(SystemExit):
        main()
    assert not WORKER.keys() & os.environ.keys()
