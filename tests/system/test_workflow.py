"""Random workflows whose every number is recomputed: a few of those of benchmarks/fuzz_workflow.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.fuzz_workflow import Case, run_case
from benchmarks.workflow_check import Reference
from benchmarks.workflow_ways import WAYS


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield Reference(tmp_path_factory.mktemp("reference"))
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "way", ["cli", *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS if way != "cli")]
)
def test_a_workflow_ends_in_a_recomputed_table_or_in_one_line(
    way: str, reference: Reference, tmp_path: Path
) -> None:
    case = next(case for case in map(Case.draw, range(100)) if case.way == way and len(case.passes) == 2)
    outcome = run_case(case, tmp_path / "case", reference)
    assert not outcome.violation, f"{case}: {outcome.violation}"
    assert len(outcome.passes) == 2
