"""XviD clips in the layouts of UCF101 and HMDB51, from a data registry to a table.

    python benchmarks/xvid_datasets.py [--clips 200] [--out DIR]

ffmpeg encodes moving patterns, a kind of motion per class, as AVIs with packed B-frames by libxvid, as both
datasets hold them. `xkd fetch`, `prepare`, `evaluate` (svm) and `tabulate` run as a user runs them, on an
encoder that was pretrained for a few steps. It prints the lines of the tables, and fails if a clip was lost.
"""

from __future__ import annotations

import csv
import itertools
import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.common import parser

_CLASSES = 10
_PATTERNS = (
    "testsrc",
    "mandelbrot",
    "cellauto=rule=110",
    "life=mold=10:ratio=0.2:death_color=blue",
    "rgbtestsrc",
)
_REGISTRY = (
    "git init -q",
    "dvc init -q",
    "dvc remote add -q --default store ../remote",
    "dvc add -q ucf101 hmdb51",
    "git add .",
    "git commit -q -m Clips",
    "dvc push -q",
)
_PRETRAIN = "epochs=2", "warmup_epochs=1", "batch_size=16"


def _write_clip(path: Path, kind: int, number: int) -> None:
    """Write a clip of 2 to 3 s whose pattern and speed are those of its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pattern, speed = _PATTERNS[kind % len(_PATTERNS)], 1 + 2 * (kind // len(_PATTERNS))
    source = f"{pattern}{':' if '=' in pattern else '='}size=320x240:rate=25"
    filters = f"setpts=PTS/{speed},fps=25,hue=h={17 * number},scale=320:240,format=yuv420p"
    encoder = f"-t {2 + number % 5 / 5} -an -c:v libxvid -bf 2 -q:v 5"
    command = f"ffmpeg -v error -y -f lavfi -i {source} -vf {filters} {encoder} {path}"
    subprocess.run(command.split(), check=True)


def _write_ucf101(root: Path, clips: int) -> None:
    """Write clips in the layout of UCF101; groups of clips take turns as test sets."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    names = [f"Class{kind}" for kind in range(_CLASSES)]
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(names, 1)))
    rows: dict[str, list[str]] = {}
    for number in range(clips):
        kind, group = number % _CLASSES, number // _CLASSES
        path = f"{names[kind]}/v_{names[kind]}_g{group + 1:02d}_c01.avi"
        _write_clip(root / "UCF-101" / path, kind, group)
        for fold in range(3):
            split = "test" if group % 3 == fold else "train"
            rows.setdefault(f"{split}list0{fold + 1}", []).append(path + f" {kind + 1}" * (split == "train"))
    for name, lines in rows.items():
        (lists / f"{name}.txt").write_text("\n".join(lines) + "\n")


def _write_hmdb51(root: Path, clips: int) -> None:
    """Write clips in the layout of HMDB51."""
    lists = root / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    for kind in range(_CLASSES):
        names = [f"film_{number}_class{kind}_u_cm_np1.avi" for number in range(clips // _CLASSES)]
        for number, name in enumerate(names):
            _write_clip(root / "HMDB-51" / f"class{kind}" / name, kind, number)
        for fold in range(3):
            lines = [f"{name} {2 if number % 3 == fold else 1}\n" for number, name in enumerate(names)]
            (lists / f"class{kind}_test_split{fold + 1}.txt").write_text("".join(lines))


def _run(command: str, folder: Path) -> str:
    """Run a command; return the last line that it writes to stderr."""
    owner = {f"GIT_{who}_{what}": "owner" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    result = subprocess.run(
        command.split(), cwd=folder, env=os.environ | owner, capture_output=True, text=True
    )
    if result.returncode:
        raise SystemExit(f"{command}: {result.stderr}")
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else ""


def main() -> None:
    """Print what each command says last, and the tables' rows."""
    arguments = parser(__doc__)
    arguments.add_argument("--clips", type=int, default=200, help="clips per dataset")
    arguments.add_argument("--out", type=Path, help="empty folder to keep; default: a temporary one")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        registry = folder / "registry"
        _write_ucf101(registry / "ucf101", options.clips)
        _write_hmdb51(registry / "hmdb51", options.clips)
        for command in _REGISTRY:
            _run(command, registry)
        _run("xkd fetch embedded --clips 24 --out embedded", folder)
        _run("xkd prepare embedded --out embedded-prepared --set short_side=64", folder)
        settings = " ".join(f"--set optim.{setting}" for setting in _PRETRAIN)
        _run(f"xkd pretrain --preset toy --data embedded-prepared --out run {settings}", folder)
        for name in ("ucf101", "hmdb51"):
            print(_run(f"xkd fetch {name} --repo registry --out {name}", folder))
            print(_run(f"xkd prepare {name} --out {name}-prepared --set short_side=64", folder), flush=True)
            for fold, encoder in itertools.product((1, 2, 3), ("teacher", "raw")):
                task = f"--modality video --protocol svm --encoder {encoder} --fold {fold}"
                _run(f"xkd evaluate --run run --data {name}-prepared --out scores {task}", folder)
            with (folder / f"{name}-prepared" / "manifest.csv").open() as file:
                found = len([*csv.DictReader(file)])
            if found != options.clips:
                raise SystemExit(f"{name}: {found} of {options.clips} clips were prepared")
        _run("xkd tabulate --run run --scores scores --out report", folder)
        print((folder / "report" / "tables.md").read_text())


if __name__ == "__main__":
    main()
