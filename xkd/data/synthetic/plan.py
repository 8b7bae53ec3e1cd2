"""Everything that determines one synthetic clip."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xkd.data.synthetic.audio import Timbre, synthesize
from xkd.data.synthetic.scenes import ACTIONS, MATERIALS, Scene
from xkd.data.synthetic.video import render

VERSION = 2
"""Part of the embedded dataset's revision: raise it whenever a clip would come out differently."""

_SPECIMENS = {"train": 10, "val": 4}


@dataclass(frozen=True)
class Plan:
    """One clip of a seed and a split; rendering it needs nothing else.

    Its representation, ``Plan(seed=..., split=..., index=...)``, determines `name`.
    """

    seed: int
    split: str
    index: int

    @property
    def _block(self) -> int:
        return self.index // len(ACTIONS)

    @property
    def action(self) -> str:
        """The first label."""
        return list(ACTIONS)[self.index % len(ACTIONS)]

    @property
    def material(self) -> str:
        """The second label, independent of the first."""
        return MATERIALS[self._block % len(MATERIALS)]

    @property
    def specimen(self) -> int:
        """Number of the specimen that sounds, among the split's of this material; covers all pairs."""
        return sum(divmod(self._block, len(MATERIALS))) % _SPECIMENS[self.split]

    @property
    def fold(self) -> int:
        """ESC-50's fold, 1-5: no two folds share a specimen."""
        return self.specimen % 5 + 1

    @property
    def name(self) -> str:
        """Eleven characters, as Kinetics names its clips."""
        return f"{self.split[0]}-{hashlib.sha256(repr(self).encode()).hexdigest()[:9]}"

    def rng(self, purpose: str) -> np.random.Generator:
        """Return an independent stream of random numbers per purpose."""
        key = hashlib.sha256(f"{purpose} {self.split} {self.index}".encode()).digest()
        return np.random.default_rng([self.seed, VERSION, int.from_bytes(key[:8])])

    def timbre(self) -> Timbre:
        """Return the specimen's modes: equal in all clips of the split, absent from the other split."""
        key = hashlib.sha256(f"{self.split} {self.material} {self.specimen}".encode()).digest()
        return Timbre.draw(np.random.default_rng([self.seed, int.from_bytes(key[:8])]), self.material)

    @property
    def scene(self) -> Scene:
        """The motion that is both rendered and synthesized."""
        return Scene.draw(self.rng("scene"), self.action, self.material)

    def frames(self) -> NDArray[np.uint8]:
        """Render the frames (T, SIDE, SIDE, 3)."""
        return render(self.rng("frames"), self.scene)

    def waveform(self) -> NDArray[np.float32]:
        """Synthesize the sound (SECONDS * RATE,) within ±1."""
        return synthesize(self.rng("sound"), self.scene, self.timbre())
