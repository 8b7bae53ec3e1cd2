"""The embedded dataset: real mp4 and wav files, made here, whose labels need motion and sound in time.

Two independent labels: ten actions fix the trajectory and the time pattern of the sound, five
materials fix the texture and the timbre. The clips are written in Kinetics400's layout (label: the
action), some of their soundtracks in ESC-50's (the action) and in FSD50K's (action and material),
so that one generator exercises every reader. `xkd.data.synthetic.check` measures that the labels
are neither free nor out of reach.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from xkd.data.synthetic.audio import RATE, Timbre, synthesize
from xkd.data.synthetic.files import write_table, write_video, write_wav
from xkd.data.synthetic.scenes import ACTIONS, MATERIALS, SECONDS, Scene
from xkd.data.synthetic.video import render
from xkd.errors import UserError
from xkd.parallel.processes import Failure, run_each
from xkd.progress import progress

VERSION = 2
"""Part of the revision: raise it whenever a clip would come out differently."""

FEWEST = 20
"""Clips below which some action would have no training clip."""

_SPECIMENS = {"train": 10, "val": 4}
_PATIENCE = 120.0  # seconds for one clip
_HASHED = 4  # first and last clips whose decoded arrays the revision covers
_LAYOUTS = {"kinetics400": "kinetics400", "esc50": "esc50", "fsd50k": "fsd50k"}


@dataclass(frozen=True)
class Plan:
    """Everything that fixes one clip; drawing it needs nothing else."""

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
        """Which of the split's specimens of the material sounds; runs through all pairs of the two."""
        return sum(divmod(self._block, len(MATERIALS))) % _SPECIMENS[self.split]

    @property
    def fold(self) -> int:
        """ESC-50's fold, 1-5: no two folds share a specimen."""
        return self.specimen % 5 + 1

    @property
    def name(self) -> str:
        """Eleven characters, as Kinetics names its clips."""
        return f"{self.split[0]}-{hashlib.sha256(repr(self).encode()).hexdigest()[:9]}"

    @property
    def path(self) -> Path:
        """The clip's place below the dataset."""
        return Path("kinetics400", self.split, self.action, f"{self.name}_000000_{SECONDS:06.0f}.mp4")

    def rng(self, purpose: str) -> np.random.Generator:
        """An own stream of random numbers for each purpose."""
        key = hashlib.sha256(f"{purpose} {self.split} {self.index}".encode()).digest()
        return np.random.default_rng([self.seed, VERSION, int.from_bytes(key[:8])])

    def timbre(self) -> Timbre:
        """The specimen's modes: the same in every clip of the split, never in the other split."""
        key = hashlib.sha256(f"{self.split} {self.material} {self.specimen}".encode()).digest()
        return Timbre.draw(np.random.default_rng([self.seed, int.from_bytes(key[:8])]), self.material)

    @property
    def scene(self) -> Scene:
        """What is both seen and heard."""
        return Scene.draw(self.rng("scene"), self.action, self.material)

    def frames(self) -> NDArray[np.uint8]:
        """The pictures (T, SIDE, SIDE, 3)."""
        return render(self.rng("frames"), self.scene)

    def waveform(self) -> NDArray[np.float32]:
        """The sound (SECONDS * RATE,) within ±1."""
        return synthesize(self.rng("sound"), self.scene, self.timbre())


@dataclass(frozen=True)
class _Job:
    """One clip to write, and where its soundtracks go."""

    root: Path
    plan: Plan
    soundtracks: tuple[Path, ...]


def generate(out: Path, *, clips: int = 800, seed: int = 0) -> None:
    """Write the dataset, or keep it when exactly this one is there already.

    Args:
        out: the dataset's directory; absent, empty, or this same dataset.
        clips: how many; three quarters train, the rest validate.
        seed: another seed, another dataset.

    Raises:
        UserError: too few clips, or `out` holds something else.
    """
    if clips < FEWEST:
        raise UserError(f"clips {clips}: the embedded dataset needs at least {FEWEST}")
    if seed < 0:
        raise UserError(f"seed {seed} must not be negative")
    out = out.resolve()
    identity = {"name": "embedded", "version": VERSION, "clips": clips, "seed": seed}
    if _is_there(out, identity):
        print(
            f"{out}: the embedded dataset ({clips} clips, seed {seed}) is there already; kept",
            file=sys.stderr,
        )
        return
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        jobs = _lay_out(partial, clips, seed)
        with progress("embedded", len(jobs)) as bar:
            for outcome in run_each(_write_clip, jobs, len(os.sched_getaffinity(0)), _PATIENCE):
                if isinstance(outcome, Failure):
                    raise UserError(f"cannot write the embedded dataset to {out}: {outcome.reason}")
                bar.advance()
        revision = _revision(
            identity, [job.root / job.plan.path for job in (*jobs[:_HASHED], *jobs[-_HASHED:])]
        )
        described = {**identity, "revision": revision, "layouts": _LAYOUTS}
        (partial / "dataset.json").write_text(json.dumps(described, indent=2) + "\n")
        if out.exists():
            out.rmdir()  # empty, or _is_there would have raised
        partial.rename(out)
    except OSError as error:
        raise UserError(f"cannot write the embedded dataset to {out}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_there(out: Path, identity: dict[str, Any]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        out.parent.mkdir(parents=True, exist_ok=True)
        return False
    try:
        found = json.loads((out / "dataset.json").read_text())
    except (OSError, ValueError):
        raise UserError(f"{out} is not an embedded dataset; choose another directory or remove it") from None
    if not isinstance(found, dict) or any(found.get(key) != value for key, value in identity.items()):
        wanted = ", ".join(f"{key} {value}" for key, value in identity.items())
        raise UserError(f"{out} holds another dataset than {wanted}; choose another directory or remove it")
    return True


def _write_clip(job: _Job) -> None:
    waveform = job.plan.waveform()
    write_video(job.root / job.plan.path, job.plan.frames(), waveform)
    for path in job.soundtracks:
        seconds = 5.0 if path.parts[0] == "esc50" else job.plan.rng("length").uniform(3.0, SECONDS)
        write_wav(job.root / path, waveform[: round(seconds * RATE)])


def _decode(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What an mp4 file holds: frames (T, H, W, 3) and mono waveform (S,)."""
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    with av.open(str(path)) as file:
        sound = [frame.to_ndarray() for frame in file.decode(audio=0)]
    return np.stack(frames), np.concatenate(sound, axis=1)[0]


def _lay_out(root: Path, clips: int, seed: int) -> list[_Job]:
    """Make the directories and the lists of the three layouts; returns what is still to be written.

    ESC-50 and FSD50K's dev part take soundtracks of training clips, FSD50K's eval part of validation clips.
    """
    train = [Plan(seed, "train", index) for index in range(clips * 3 // 4)]
    val = [Plan(seed, "val", index) for index in range(clips - len(train))]
    soundtracks: dict[Plan, list[Path]] = {plan: [] for plan in (*train, *val)}

    kinetics = Path("kinetics400")
    for split, plans in (("train", train), ("val", val)):
        rows = [(plan.action, plan.name, 0, f"{SECONDS:.0f}", split, 0) for plan in plans]
        header = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")
        write_table(root / kinetics / f"{split}.csv", [header, *rows])

    esc50, rows50 = Path("esc50"), []
    for plan in train[: clips * 5 // 16]:
        target = list(ACTIONS).index(plan.action)
        name = f"{plan.fold}-{plan.index}-A-{target}.wav"
        rows50.append((name, plan.fold, target, plan.action, False, plan.index, "A"))
        soundtracks[plan].append(esc50 / "audio" / name)
    header50 = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    write_table(root / esc50 / "meta" / "esc50.csv", [header50, *rows50])

    fsd50k, tags = Path("fsd50k"), sorted((*ACTIONS, *MATERIALS))
    vocabulary = {tag: (tag.capitalize(), f"/m/xkd{index:02d}") for index, tag in enumerate(tags)}
    truth = root / fsd50k / "FSD50K.ground_truth"
    write_table(truth / "vocabulary.csv", [(index, *vocabulary[tag]) for index, tag in enumerate(tags)])
    parts = (("dev", 1000, train[: clips * 3 // 16]), ("eval", 5000, val[: max(1, clips // 16)]))
    for part, first, plans in parts:
        listed: list[tuple[str, ...]] = [("fname", "labels", "mids", "split")]
        for plan in plans:
            name = str(first + plan.index)
            labels, mids = zip(vocabulary[plan.action], vocabulary[plan.material], strict=True)
            listed.append((name, ",".join(labels), ",".join(mids), "val" if plan.fold == 5 else "train"))
            soundtracks[plan].append(fsd50k / f"FSD50K.{part}_audio" / f"{name}.wav")
        write_table(truth / f"{part}.csv", listed if part == "dev" else [row[:3] for row in listed])

    jobs = [_Job(root, plan, tuple(paths)) for plan, paths in soundtracks.items()]
    for folder in {(root / path).parent for job in jobs for path in (job.plan.path, *job.soundtracks)}:
        folder.mkdir(parents=True, exist_ok=True)
    return jobs


def _revision(identity: dict[str, Any], paths: Iterable[Path]) -> str:
    """SHA-256 of what the dataset is and of some clips as decoded: mp4 bytes vary between builds."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for path in paths:
        for array in _decode(path):
            digest.update(array.tobytes())
    return digest.hexdigest()
