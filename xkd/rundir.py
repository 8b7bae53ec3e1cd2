"""The run directory: the one place that knows the files of a run."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from xkd.config import Modality, PretrainConfig, load_config
from xkd.config.overrides import build, describe_difference, to_yaml
from xkd.errors import CollapsedError, UserError
from xkd.io import read_json, write_text
from xkd.lock import LOCK
from xkd.log import get_logger

Role = Literal["teacher", "student"]
ROLES: tuple[Role, ...] = ("teacher", "student")

_SHOWN = 6
"""Most settings that a message shows; another preset differs in dozens."""

Row = dict[str, Any]
"""A row of ``metrics.jsonl``."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a run, as ``verdict.json`` holds it."""

    verdict: Literal["healthy", "undecided", "one_hot", "constant", "non_finite", "stalled"]
    """Undecided: the run is too short to be judged, or its teachers are too little trained."""
    reason: str
    """One sentence for people."""
    step: int
    """The newest step the verdict is based on."""

    @property
    def failed(self) -> bool:
        """Whether evaluating the run is pointless; an undecided run is evaluated."""
        return self.verdict not in ("healthy", "undecided")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


class RunDir:
    """The directory of one pretraining run.

    Args:
        path: the directory; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        """Every setting, resolved."""
        self.info_file = self.path / "run.json"
        """Commit, data revision, device, steps and seconds."""
        self.metrics_file = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        """Event files, with `run.tensorboard`."""
        self.verdict_file = self.path / "verdict.json"
        """Written last: its presence means that the run has ended."""
        self.attempts_file = self.path / ".attempts.json"
        """How often a job was started without a new checkpoint."""
        self.checkpoints = self.path / "checkpoints"
        self.encoders = self.path / "encoders"
        self.samples_file = self.path / "reconstruction.pt"
        """Reconstructions and attention of a few clips."""
        self.scores = self.path / "scores"
        self.report = self.path / "report"
        self.comparison = self.path / "comparison"

    @property
    def name(self) -> str:
        """The directory's own name, also for ``.`` and symbolic links."""
        return self.path.resolve().name

    @property
    def ended(self) -> bool:
        """Whether the run has a verdict; nothing is left to train."""
        return self.verdict_file.exists()

    @property
    def imported(self) -> bool:
        """Whether the encoders were imported, so that nothing is known of their training."""
        return self.encoders.is_dir() and not self.info_file.exists()

    def claim(self, config: PretrainConfig, extend: bool = False) -> bool:
        """Make this the directory of a run, or check that it already is; the caller holds its lock.

        Args:
            extend: continue a run for more epochs. One that has ended becomes unfinished again, and its
                encoders are set aside.

        Returns:
            Whether the run has ended already.

        Raises:
            UserError: it holds other files, or a run with other settings (``run.*`` except the seed may
                differ), or one that cannot be extended.
        """
        text = to_yaml(config)
        if self.config_file.exists():
            changed = {
                name: line
                for name, line in describe_difference(self.config(), config).items()
                if name == "run.seed" or not name.startswith("run.")
            }
            if extend:
                self._extend(config, changed)
            elif changed:
                raise UserError(f"{self._holds_another(changed.values())}; use another --out")
        elif self.path.exists() and {entry.name for entry in self.path.iterdir()} - {
            LOCK,
            self.attempts_file.name,
        }:
            raise UserError(f"{self.path} is not empty and contains no run; use another --out")
        elif extend:
            raise UserError(f"no run in {self.path} to extend")
        write_text(self.config_file, text)
        return self.ended

    def _holds_another(self, changed: Collection[str]) -> str:
        """Return that the directory has a run of other settings."""
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        return f"{self.path} holds a run with another {', '.join(islice(changed, _SHOWN))}{more}"

    def _extend(self, config: PretrainConfig, changed: Mapping[str, str]) -> None:
        """Check that only more epochs are asked for, and mark the run as unfinished."""
        before = self.config().optim.epochs
        if others := [line for name, line in changed.items() if name != "optim.epochs"]:
            raise UserError(f"{self._holds_another(others)}; --extend changes only optim.epochs")
        if config.optim.epochs < before or (self.ended and not changed):
            raise UserError(f"{self.path} has {before} epochs; to extend it, set optim.epochs to more")
        if self.ended and not self.encoders.is_dir():
            raise UserError(f"{self.path} ended before its last step ({self.verdict().reason}); not extended")
        if self.newest_checkpoint() is None:
            raise UserError(f"{self.path} has no checkpoint to continue from")
        if changed:  # else the extension was interrupted, and is resumed
            self.verdict_file.unlink(missing_ok=True)
            if self.encoders.is_dir():
                self.encoders.rename(self.path / f"encoders_step_{self.info()['steps']:08d}")

    def config(self) -> PretrainConfig:
        """Return the resolved configuration.

        Raises:
            UserError: there is no run.
        """
        if not self.config_file.is_file():
            raise UserError(
                f"no run in {self.path}: it has no {self.config_file.name}; give a directory that "
                "xkd pretrain wrote"
            )
        return load_config(self.config_file)

    def info(self) -> dict[str, Any]:
        """Return what ``run.json`` holds; empty before training has started."""
        return read_json(self.info_file) if self.info_file.exists() else {}

    @property
    def id(self) -> str:
        """What distinguishes the run from another one in the same place; empty before it has started."""
        return str(self.info().get("id", ""))

    def metrics(self) -> list[Row]:
        """Return the logged rows, oldest first."""
        return read_rows(self.metrics_file)

    def verdict(self) -> Verdict:
        """Return the verdict of a run that has ended.

        Raises:
            UserError: the run has not ended, or the file is not a verdict.
        """
        if not self.ended:
            raise UserError(f"no {self.verdict_file.name} in {self.path}; is the run finished?")
        return build(Verdict, read_json(self.verdict_file), f"{self.verdict_file} is not a verdict")

    def outcome(self) -> Verdict:
        """Return the verdict of a run that reached its last step.

        Raises:
            CollapsedError: it ended before that, so it published no encoders.
            UserError: it has not ended.
        """
        verdict = self.verdict()
        if not self.encoders.is_dir():
            raise CollapsedError(verdict.to_dict())
        return verdict

    def snapshot(self, epoch: int) -> RunDir:
        """Return the directory of the run as it was after an epoch, see setting `run.snapshots`."""
        return RunDir(self.path / "snapshots" / f"epoch_{epoch}")

    def withdraw(self, step: int, folder: str) -> None:
        """Move what was published after a step, with its scores, to a folder of the directory."""
        snapshots = map(RunDir, self.path.glob("snapshots/epoch_*"))
        # A snapshot has no verdict if the run was killed as it wrote it.
        later = [run.path for run in snapshots if not run.ended or run.verdict().step > step]
        for path in (self.encoders, self.samples_file, self.scores, *later):
            if path.exists():
                target = self.path / folder / path.relative_to(self.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)

    def newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint, if there is one."""
        return max(self.checkpoints.glob("step_*.pt"), default=None)

    def encoder(self, role: str, modality: Modality) -> Path:
        """Return the path of a published encoder."""
        return self.encoders / f"{role}_{modality}.safetensors"

    def projector(self, role: str, modality: Modality) -> Path:
        """Return the path of a published projector; a run on one modality has none."""
        return self.encoders / f"{role}_{modality}_projector.safetensors"

    def published_roles(self) -> list[Role]:
        """Return the roles that have at least one encoder.

        Raises:
            UserError: none has.
        """
        roles = [role for role in ROLES if list(self.encoders.glob(f"{role}_*"))]
        if not roles:
            raise UserError(f"no encoders in {self.path}; a finished run has them under encoders/")
        return roles


def read_rows(path: Path) -> list[Row]:
    """Read a file of metrics; a line truncated by a crash is reported and left out."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line:
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            _report_truncated(path, number)
    return rows


@cache
def _report_truncated(path: Path, number: int) -> None:
    """Report a line once, however often the file is read."""
    get_logger(__name__).warning("line %d of %s is truncated and left out", number, path)
