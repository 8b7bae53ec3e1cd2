"""embed: the vectors of many media files, in one table, with decoding next to encoding."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import torch

from xkd.data.shards.table import write_table
from xkd.embedding.clips import (
    Piece,
    Source,
    Window,
    Windows,
    cut,
    find_length,
    find_sources,
    read_windows,
)
from xkd.embedding.encode import BATCH, Encoders
from xkd.embedding.table import FORMATS, Row, join_parts, mean_rows, read_about, schema, write_part
from xkd.errors import UserError
from xkd.io import read_json, short_hash, write_json
from xkd.launch.distributed import DistributedContext, distributed_context
from xkd.launch.local import run_locally
from xkd.launch.termination import run_worker
from xkd.log import get_logger
from xkd.output import OutputDir
from xkd.parallel.ahead import compute_ahead
from xkd.parallel.limits import cores
from xkd.parallel.processes import Failure, run_each
from xkd.parallel.threads import limit_threads
from xkd.progress import progress
from xkd.rundir import Role

_LOG = get_logger(__name__)
_PART_CLIPS = 64
"""Clips of a part, which one process embeds, and which a kill costs at most."""
_TIMEOUT = 600.0
"""Seconds after which a decoder is considered hung; it is stopped, and its clip is listed as unreadable."""
_AHEAD = 16
"""Clips that are decoded before they are encoded, besides those that workers hold."""

_PATIENCE = 86_400
"""Seconds that a process waits for the others, whose clips may be longer."""

Rows = Literal["window", "clip"]


def embed(
    run: Path,
    clips: Sequence[Path],
    out: Path,
    *,
    rows: Rows = "window",
    role: Role | None = None,
    processes: int = 0,
) -> None:
    """Embed media files, folders of them and prepared datasets with the encoders of a run.

    Writes `out`, a Parquet file or NumPy's ``.npz`` by its name, with the columns ``path``, ``start``,
    ``end`` (seconds) and per modality the pooled features and, if the run published projectors, unit vectors
    that compare across modalities (``video_projected``, ``audio_projected``). Clips that cannot be read are
    listed in ``{out}.skipped.csv``, those without some damaged part in ``{out}.damaged.csv``. An interrupted
    command resumes, with the same bytes in the end.

    Args:
        rows: one per window (`MediaClip.starts`), or per clip: means over its windows.
        role: default: the teacher, or the student of a run without teachers.
        processes: number that embed together; 0: one per GPU, one without GPUs.

    Raises:
        UserError: the run has no such encoder, a path is missing, no clip can be read, or `out` holds
            something else.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"{out} must end in {' or '.join(FORMATS)}")
    if rows not in ("window", "clip"):
        raise UserError(f"no rows by {rows}; available: window, clip")
    for path in clips:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{out} is inside {path}, whose files are embedded; choose a place outside of it")
    workers = processes or torch.cuda.device_count() or 1
    if workers < 1:
        raise UserError(f"processes must not be negative, got {processes}")
    if workers > 1:
        arguments = ["--run", run, "--out", out, "--rows", rows, *(["--role", role] if role else [])]
        words = [*map(str, arguments), "--", *map(str, clips)]
        run_locally(["xkd.embedding.embed", *words], workers)
    else:
        limit_threads()
        embed_here(run, clips, out, rows, role)


def embed_here(run: Path, clips: Sequence[Path], out: Path, rows: Rows, role: Role | None) -> None:
    """Do this process's part of `embed`, alone or as one of those that torchrun started."""
    with distributed_context(_PATIENCE) as context:
        encoders = Encoders.load(run, role, context.device)
        sources, notes = find_sources(clips, encoders.config)
        for note in notes if context.is_main else ():
            print(note, file=sys.stderr)
        files = json.dumps([(source.path, source.size) for source in sources])
        identity = {"weights": encoders.hash, "rows": rows, "clips": short_hash(files)}
        output = OutputDir(Path(f"{out}.parts"), identity, lambda: _find(out, identity))
        with output.fill(decide=context.broadcast_flag) as missing:
            if missing:
                about = identity | {"run": str(run), "role": encoders.role}
                _fill(encoders, sources, output, out, about, context)
            elif context.is_main:
                _LOG.info("%s is complete, nothing to do", out)


def _find(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the identity of a complete table."""
    about = read_about(out)
    if about is not None and (changed := [name for name in identity if about.get(name) != identity[name]]):
        raise UserError(f"{out} was made with other {', '.join(changed)}; use another --out or delete it")
    return about


def _fill(
    encoders: Encoders,
    sources: Sequence[Source],
    output: OutputDir,
    out: Path,
    about: dict[str, Any],
    context: DistributedContext,
) -> None:
    """Embed the parts that no earlier run finished, each process a share of them, then join all."""
    folder, form = output.unfinished, schema(encoders.sizes, about)
    plan, workers = folder / "plan.json", max(1, cores() // context.size)
    if context.is_main and not plan.exists():
        write_json(plan, {"clips": _find_lengths(sources, workers)})
    context.barrier()
    lengths = read_json(plan)["clips"]
    parts = [
        range(first, min(first + _PART_CLIPS, len(sources))) for first in range(0, len(sources), _PART_CLIPS)
    ]
    names = [folder / f"{number:06d}" for number in range(len(parts))]
    todo = [number for number, name in enumerate(names) if not name.with_suffix(".json").exists()]
    context.barrier()  # before any process finishes a part that another still counts as missing
    mine = todo[context.rank :: context.size]
    seconds = encoders.config.clip.seconds
    pieces = {
        number: [
            piece
            for row in parts[number]
            if isinstance(lengths[row], int | float)
            for piece in cut(sources[row], lengths[row], seconds)
        ]
        for number in mine
    }
    task = functools.partial(read_windows, config=encoders.config)
    jobs = [piece for number in mine for piece in pieces[number]]
    decoded = compute_ahead(run_each(task, jobs, workers, _TIMEOUT), _AHEAD)
    done = sum(len(parts[number]) for number in range(len(parts)) if number not in todo)
    bars = progress("embed", len(sources), done=done, show=context.is_main)
    with closing(decoded) as outcomes, bars as bar:
        for turn, number in enumerate(mine):
            problems = [
                (Piece(sources[row]), reason)
                for row in parts[number]
                if isinstance(reason := lengths[row], str)
            ]
            found = list(_embed_pieces(encoders, pieces[number], outcomes, problems))
            write_part(
                names[number].with_suffix(".parquet"),
                found if about["rows"] == "window" else mean_rows(found),
                form,
            )
            write_json(names[number].with_suffix(".json"), _report(problems, {row["path"] for row in found}))
            # The main process shows the progress of all: the others are about as far.
            begun = todo[turn * context.size : (turn + 1) * context.size]
            bar.advance(sum(len(parts[each]) for each in begun))
    context.barrier()
    if context.is_main:
        _finish(names, sources, out, form)


def _find_lengths(sources: Sequence[Source], workers: int) -> list[float | str]:
    """Return the seconds of each source, or why it cannot be read."""
    lengths: list[float | str] = []
    with progress("reading headers", len(sources)) as bar:
        for found in run_each(find_length, sources, workers, _TIMEOUT):
            lengths.append(found.reason if isinstance(found, Failure) else found)
            bar.advance()
    return lengths


def _embed_pieces(
    encoders: Encoders,
    pieces: Sequence[Piece],
    outcomes: Iterator[Windows | Failure],
    problems: list[tuple[Piece, str]],
) -> Iterator[Row]:
    """Yield the rows of pieces, whose windows arrive in order; append what cannot be read to `problems`."""
    waiting: list[tuple[str, Window]] = []

    def rows(count: int) -> Iterator[Row]:
        chunk, waiting[:count] = waiting[:count], []
        vectors = encoders.encode([window for _, window in chunk])
        for (path, window), vector in zip(chunk, vectors, strict=True):
            yield {"path": path, "start": window.start, "end": window.end, **vector}

    for piece in pieces:
        outcome = next(outcomes)
        if isinstance(outcome, Failure):
            problems.append((piece, outcome.reason))
            continue
        if outcome.damage:
            problems.append((piece, outcome.damage))
        waiting += [(piece.source.path, window) for window in outcome.windows]
        while len(waiting) >= BATCH:
            yield from rows(BATCH)
    if waiting:
        yield from rows(len(waiting))


def _report(problems: Sequence[tuple[Piece, str]], embedded: Collection[str]) -> dict[str, list[list[str]]]:
    """Return the paths with rows that miss a part, ``damaged``, and those without rows, ``skipped``."""
    report: dict[str, list[list[str]]] = {"damaged": [], "skipped": []}
    for piece, problem in problems:
        path, part = piece.source.path, f"from {piece.start:g} s: " * (piece.end is not None)
        report["damaged" if path in embedded else "skipped"].append([path, f"{part}{problem}"])
    return report


def _finish(names: Sequence[Path], sources: Sequence[Source], out: Path, form: Any) -> None:
    """Join the parts, and list what is damaged or could not be read, with the words of `prepare`."""
    reports = [read_json(name.with_suffix(".json")) for name in names]
    counts, told = {}, ""
    for kind, column in {"damaged": "damage", "skipped": "reason"}.items():
        rows = [dict(zip(("path", column), row, strict=True)) for report in reports for row in report[kind]]
        table, counts[kind] = Path(f"{out}.{kind}.csv"), len({row["path"] for row in rows})
        if rows:
            write_table(table, ("path", column), rows)
            told += f"; {counts[kind]} {kind}, see {table}"
        else:
            table.unlink(missing_ok=True)
    if counts["skipped"] == len(sources):
        raise UserError(f"none of {len(sources)} clips could be read; {out}.skipped.csv has the reasons")
    total = join_parts([name.with_suffix(".parquet") for name in names], out, form)
    _LOG.info("embed: %d rows of %d clips in %s%s", total, len(sources) - counts["skipped"], out, told)


def main() -> dict[str, Any]:
    """Embed as a process that torchrun starts: ``--run DIR --out FILE --rows KIND -- CLIPS``."""
    parser = argparse.ArgumentParser(prog="python -m xkd.embedding.embed", description=main.__doc__)
    for name in ("run", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--role")
    parser.add_argument("clips", type=Path, nargs="+")
    given = parser.parse_args()
    limit_threads()
    embed_here(given.run, given.clips, given.out, given.rows, given.role)
    return {}


if __name__ == "__main__":
    run_worker(main)
