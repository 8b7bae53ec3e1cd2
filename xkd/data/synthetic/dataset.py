"""The embedded dataset: real mp4 and wav files, generated, whose labels need motion and sound in time.

Two independent labels: ten actions determine the trajectory and the time pattern of the sound, five
materials the texture and the timbre. The clips are written in Kinetics400's layout (label: the
action), some of their soundtracks in ESC-50's (the action) and in FSD50K's (action and material),
so that one generator exercises every reader. `benchmarks/embedded_check.py` measures that the labels
are neither trivial nor out of reach.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av

from xkd.data.sources.source import DESCRIPTION
from xkd.data.synthetic.files import VERSION, File, Plan, esc50, fsd50k, kinetics, write_files
from xkd.data.synthetic.scenes import ACTIONS, MATERIALS, SECONDS
from xkd.errors import UserError
from xkd.io import find_json, read_json, write_json
from xkd.output import OutputDir

MIN_CLIPS = 20
"""With fewer clips some action would have no training clip."""

_HASHED = 4  # first and last clips whose decoded arrays the revision covers


def generate(out: Path, *, clips: int = 800, seed: int = 0) -> str:
    """Write the dataset, or keep it when exactly this one is complete; return its revision.

    Three quarters of the clips are for training, the rest for validation.

    Raises:
        UserError: too few clips, or `out` holds something else.
    """
    if clips < MIN_CLIPS:
        raise UserError(f"clips {clips}: the embedded dataset needs at least {MIN_CLIPS}")
    if seed < 0:
        raise UserError(f"seed {seed} must not be negative")
    record = out / DESCRIPTION
    identity = {"name": "embedded", "version": VERSION, "clips": clips, "seed": seed}
    with OutputDir(out, identity, lambda: find_json(record)).fill() as missing:
        if missing:
            files = [*_lay_out(clips, seed)]
            write_files("embedded", out, files)
            videos = [out / file.path for file in files if file.path.endswith(".mp4")]
            revision = _revision(identity, [*videos[:_HASHED], *videos[-_HASHED:]])
            layouts = {name: name for name in ("kinetics400", "esc50", "fsd50k")}
            write_json(record, {**identity, "revision": revision, "layouts": layouts})
        else:
            print(
                f"{out}: the embedded dataset ({clips} clips, seed {seed}) already exists, nothing to do",
                file=sys.stderr,
            )
    return str(read_json(record)["revision"])


def _lay_out(clips: int, seed: int) -> Iterator[File]:
    """List the files of the three layouts.

    ESC-50 and FSD50K's dev part take soundtracks of training clips, FSD50K's eval part of validation clips.
    """
    train = [Plan(seed, "train", index) for index in range(clips * 3 // 4)]
    val = [Plan(seed, "val", index) for index in range(clips - len(train))]
    for split, plans in (("train", train), ("val", val)):
        videos = ((plan.action, plan.action, plan, 0, int(SECONDS)) for plan in plans)
        yield from kinetics(split, videos, "kinetics400/")

    numbered = ((plan, list(ACTIONS).index(plan.action)) for plan in train[: clips * 5 // 16])
    sounds = ((plan.fold, plan.index, "A", number, plan.action, False, plan) for plan, number in numbered)
    yield from esc50(sounds, "esc50/")

    heldout = val[: max(1, clips // 16)]
    tags = sorted(tag.capitalize() for tag in (*ACTIONS, *MATERIALS))
    tagged = (
        (
            part,
            first + plan.index,
            (plan.action.capitalize(), plan.material.capitalize()),
            "val" if plan.fold == 5 else "train",
            plan,
            plan.rng("length").uniform(3.0, SECONDS),
        )
        for part, first, plans in (("dev", 1000, train[: clips * 3 // 16]), ("eval", 5000, heldout))
        for plan in plans
    )
    yield from fsd50k({tag: f"/m/xkd{index:02d}" for index, tag in enumerate(tags)}, tagged, "fsd50k/")


def _revision(identity: dict[str, Any], paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the identity and of some clips as decoded: mp4 bytes vary between builds."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for path in paths:
        with av.open(str(path)) as file:
            for picture in file.decode(video=0):
                digest.update(picture.to_ndarray(format="rgb24").tobytes())
        with av.open(str(path)) as file:
            for sound in file.decode(audio=0):
                digest.update(sound.to_ndarray()[0].tobytes())
    return digest.hexdigest()
