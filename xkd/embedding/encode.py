"""The encoders of a run, and the vectors of windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xkd.config import Modality, PretrainConfig
from xkd.data.sources.files import SourceFile
from xkd.embedding.clips import Piece, Source, Window, read_windows
from xkd.embedding.table import Row, mean_rows
from xkd.errors import UserError
from xkd.evaluation.features import hash_weights
from xkd.log import get_logger
from xkd.model.projector import Projection
from xkd.rundir import ROLES, Role, RunDir
from xkd.weights import PretrainedEncoder, load, load_projections

BATCH = 32
"""Windows that are encoded together, always the same ones: sums depend on the size of a product."""
_LOG = get_logger(__name__)


@dataclass(frozen=True)
class Encoders:
    """The encoders of a run in one role, and its projectors, if it published them."""

    run: Path
    role: Role
    config: PretrainConfig
    encoders: dict[Modality, PretrainedEncoder]
    projections: dict[Modality, Projection]

    @classmethod
    def load(cls, run: Path, role: Role | None, device: torch.device) -> Encoders:
        """Load what a run published; without a role, the teachers, or else the students.

        Raises:
            UserError: there is no run, or it has no such encoder.
        """
        directory = RunDir(run)
        config = directory.config()
        if role not in (None, *ROLES):
            raise UserError(f"no role {role}; available: {', '.join(ROLES)}")
        role = role or directory.published_roles()[0]
        encoders = {m: load(directory.encoder(role, m)).to(device) for m in config.modalities}
        projections = {}
        if len(encoders) > 1 and all(directory.projector(role, m).is_file() for m in encoders):
            projections = {m: p.to(device) for m, p in load_projections(run, role).items()}
        elif len(encoders) > 1:
            _LOG.info("%s published no projectors: no vectors to search across modalities", run)
        return cls(run, role, config, encoders, projections)

    @property
    def hash(self) -> str:
        """Identifies the weights of the encoders and projectors."""
        networks: Sequence[torch.nn.Module] = [*self.encoders.values(), *self.projections.values()]
        return "+".join(hash_weights(network.state_dict()) for network in networks)

    @property
    def sizes(self) -> dict[str, int]:
        """Dimensions of the vectors by column."""
        sizes: dict[str, int] = dict.fromkeys(self.encoders, self.config.encoder.dim)
        for m, projection in self.projections.items():
            basis = projection.basis
            sizes[f"{m}_projected"] = len(projection.center) if basis is None else basis.shape[1]
        return sizes

    @torch.inference_mode()
    def encode(self, windows: Sequence[Window]) -> list[Row]:
        """Return the vectors of some windows, at most `BATCH`; None where one lacks the modality."""
        rows: list[Row] = [dict.fromkeys(self.sizes) for _ in windows]
        for m, encoder in self.encoders.items():
            have = [place for place, window in enumerate(windows) if m in window.inputs]
            if not have:
                continue
            view = encoder.make_view([torch.from_numpy(windows[place].inputs[m]) for place in have])
            pooled = encoder.pool(encoder(view))
            vectors: dict[str, Tensor] = {m: pooled}
            if m in self.projections:
                vectors[f"{m}_projected"] = self.projections[m](pooled)
            for column, values in vectors.items():
                found: NDArray[np.float32] = values.float().cpu().numpy()
                for place, vector in zip(have, found, strict=True):
                    rows[place][column] = vector
        return rows

    def embed_file(self, path: Path) -> Row:
        """Return the mean vectors of a media file.

        Raises:
            MediaError: it cannot be read.
        """
        source = Source(str(path), SourceFile(path, 0))
        windows = read_windows(Piece(source), self.config).windows
        rows: list[Row] = []
        for first in range(0, len(windows), BATCH):
            chunk = windows[first : first + BATCH]
            vectors = self.encode(chunk)
            rows += [
                {"path": source.path, "start": window.start, "end": window.end, **vector}
                for window, vector in zip(chunk, vectors, strict=True)
            ]
        return mean_rows(rows)[0]
