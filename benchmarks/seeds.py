r"""The scores of a preset over several seeds: the tables of docs/results.md.

python benchmarks/seeds.py --data data/prepared --out runs/seeds --preset embedded
python benchmarks/seeds.py --data data/prepared --out runs/seeds-alone --preset embedded \
    --seeds 0 --set loss.align=0 --set loss.distill=0 --set video.local_views=0 --set audio.local_views=0
python benchmarks/seeds.py --data data/prepared --out runs/seeds --preset embedded --protocols retrieval

Runs one seed after the other. Rerun the command to resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from benchmarks.common import parser
from xkd.config.overrides import resolve
from xkd.config.presets import get_preset
from xkd.evaluation.evaluate import evaluate
from xkd.evaluation.plan import choose
from xkd.launch.launcher import launch

ENCODERS = ("teacher", "student", "random")
COLUMNS = {
    "Video": ("video", "svm", "score"),
    "Audio": ("audio", "svm", "score"),
    "Late fusion": ("audiovisual", "fusion", "score"),
    "Video, fine-tuned": ("video", "finetune", "score"),
    "Audio, fine-tuned": ("audio", "finetune", "score"),
    "Video to audio, recall@1": ("audiovisual", "retrieval", "score"),
    "recall@5": ("audiovisual", "retrieval", "top5"),
}
"""Modality, protocol and field of a score, by the column's title."""

Scores = dict[tuple[str, str], float]
"""Percent by encoder and column."""


def scores_of(run: Path, data: Path, seed: int, protocols: Sequence[str]) -> Scores:
    """Return the scores of a finished run; the seed also determines the random initialization."""
    tasks = [replace(task, seed=seed) for _, task in choose([data], ENCODERS, protocols)]
    scores = [evaluate(run, data, task, run / "scores") for task in tasks]
    return {
        (score.encoder, title): 100 * getattr(score, field)
        for score in scores
        for title, (modality, protocol, field) in COLUMNS.items()
        if (score.modality, score.protocol) == (modality, protocol)
    }


def spread(values: Sequence[float], sign: str = "") -> str:
    """Return mean ± standard deviation over the seeds."""
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.1f}{deviation}"


def table(seeds: Sequence[Scores]) -> str:
    """Return a Markdown table: scores, and in parentheses gains over the random encoder of the same seed."""
    columns = [title for title in COLUMNS if ("random", title) in seeds[0]]
    lines = [f"| | {' | '.join(columns)} |", "|---" + "|---:" * len(columns) + "|"]
    for encoder in ENCODERS:
        cells = []
        for column in columns:
            gains = [scores[encoder, column] - scores["random", column] for scores in seeds]
            gain = "" if encoder == "random" else f" ({spread(gains, '+')})"
            cells.append(spread([scores[encoder, column] for scores in seeds]) + gain)
        lines.append(f"| {encoder.capitalize()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train and evaluate every seed, then print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="prepared dataset")
    arguments.add_argument("--out", type=Path, required=True, help="directory of the runs, one per seed")
    arguments.add_argument("--preset", default="embedded")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--protocols", nargs="+", default=[], help="of the evaluations; default: all")
    arguments.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = arguments.parse_args()
    seeds = []
    for seed in args.seeds:
        run = args.out / str(seed)
        config = resolve(get_preset(args.preset), None, args.set, run={"seed": seed})
        verdict = launch(config, args.data, run, 1)
        assert verdict  # on this machine there always is one
        print(f"seed {seed}: {verdict.verdict}: {verdict.reason}", flush=True)
        seeds.append(scores_of(run, args.data, seed, args.protocols))
        print(table(seeds), flush=True)


if __name__ == "__main__":
    main()
