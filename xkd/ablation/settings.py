"""What `xkd ablate` makes: its options, which params.yaml has for DVC."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from xkd.ablation.plan import list_runs
from xkd.ablation.tables import find_tables
from xkd.config.overrides import STRICT
from xkd.config.types import Text
from xkd.errors import UserError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AblateConfig:
    """The tables, and what their runs are trained and evaluated on."""

    tables: tuple[str, ...] = ()
    """Tables by name (`xkd tables`), or all."""
    scale: str = "small"
    """small: sizes of the embedded dataset, minutes a run; paper: the paper's."""
    seeds: int = 1
    """Runs of each configuration, with the seeds 0, 1, ..."""
    data: Text = ""
    """Prepared dataset to train on."""
    out: Text = ""
    """Directory of the runs and the results."""
    downstream: tuple[str, ...] = ()
    """Prepared datasets to evaluate on; none: `data`."""
    settings: tuple[str, ...] = ()
    """Settings applied to every run, each ``dotted.name=value``."""
    runs: dict[str, tuple[str, ...]] | None = None
    """The stages of DVC: each run, with the tables that need it, as `xkd ablate --params` prints them."""

    def check(self) -> None:
        """Check that everything needed is given, and that the runs, if listed, are those of the tables.

        Raises:
            UserError: it is not so, or a table or the scale is unknown.
        """
        for name in ("tables", "data", "out"):
            if not getattr(self, name):
                raise UserError(f"{name}: must be given, as an option or in the file of --config")
        if self.runs is not None and self.runs != (needed := self.needed_runs()):
            raise UserError(
                f"runs: {_first_difference(self.runs, needed)}; xkd ablate --config FILE:SECTION --params "
                "prints the section with the right ones"
            )

    def needed_runs(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the tables' runs, each with the tables that need it (`list_runs`)."""
        return list_runs(find_tables(self.tables), self.scale, self.seeds, self.settings)


def _first_difference(listed: dict[str, tuple[str, ...]], needed: dict[str, tuple[str, ...]]) -> str:
    name = next(name for name in needed | listed if listed.get(name) != needed.get(name))
    if name not in needed:
        return f"{name} is in none of the tables"
    return f"{name} is not listed" if name not in listed else f"{name} is of {', '.join(needed[name])}"
