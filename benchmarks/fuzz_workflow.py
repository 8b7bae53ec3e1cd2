"""Random workflows through the command line, DVC and KFP; every number of their tables is recomputed.

A case draws a way to run the workflow, names and paths, settings, an interruption and a second pass with
other settings, all of them valid. Each command must end with exit code 0 or with one line that says why not.
A report must have the score of every evaluation that ended well, and none that differs from a fresh
evaluation of the same task; the run must have the weights of an undisturbed training, bit by bit.

    python benchmarks/fuzz_workflow.py --out /tmp/xkd-fuzz --cases 300   # a minute or two per case
    python benchmarks/fuzz_workflow.py --out /tmp/xkd-fuzz --case 17     # one of them alone

Prints a table of the outcomes; exits with 1 if there was a violation.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.common import parser
from benchmarks.workflow_check import Reference, Violation, Wanted, check_report, run_command
from benchmarks.workflow_ways import WAYS, Place, Settings

NAMES = (
    *("run", "my run", "a$HOME", "${app_id}", "$$", "$(pwd)", "a:b", "lr=1e-3", "bob's", 'say "hi"', "`id`"),
    *("n" * 200, "%s", "#1", "a\\b", ".hidden", "1.10", "null", "*", "a;b", "a&b", "[x]", "{y}", "~", "é"),
)
PATHS = ("absolute", "relative", "symlink", "dot")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP)


@dataclass(frozen=True)
class Case:
    """What is drawn."""

    number: int
    way: str
    name: str
    """Of the directory in which the workflow runs, and of the run."""
    path: str
    passes: tuple[Settings, ...]
    """The second pass, if any, uses the same directories."""
    kill: signal.Signals | None
    """Interrupts the first pass, which is then repeated."""
    seconds: float
    """Until the interruption."""

    @classmethod
    def draw(cls, number: int) -> Case:
        """Draw a case; the same number gives the same case."""
        rng = random.Random(number)
        tasks = [Wanted(*evaluation, encoder) for evaluation in EVALUATIONS for encoder in ENCODERS]

        def settings() -> Settings:
            return Settings(
                seed=rng.choice((0, 1)),
                depth=rng.choice((1, 2)),
                windows=rng.choice((1, 2)),
                tasks=tuple(rng.sample(tasks, rng.choice((1, 2, 3)))),
            )

        first = settings()
        kept = {name: getattr(first, name) for name in rng.choice(KEPT)}
        second = [replace(settings(), **kept)] * (rng.random() < 0.5)
        way = rng.choice([*WAYS])
        return cls(
            number=number,
            way=way,
            name=rng.choice(NAMES),
            path=rng.choice(PATHS if way == "cli" else PATHS[:3]),  # elsewhere, . has other files too
            passes=(first, *second),
            kill=rng.choice((None, *SIGNALS)),
            seconds=rng.uniform(1, 20),
        )

    def __str__(self) -> str:
        return (
            f"case {self.number}: {self.way}, {self.name[:20]!r} {self.path}, {self.kill and self.kill.name}"
        )


EVALUATIONS = (("video", "svm"), ("audio", "svm"), ("audiovisual", "fusion"))
ENCODERS = ("teacher", "student", "random", "raw")
KEPT: tuple[tuple[str, ...], ...] = ((), ("seed", "depth"), ("seed", "depth", "windows"))
"""What a second pass keeps of the first: nothing, the training, or also the evaluations' settings."""


@dataclass
class Outcome:
    """How a case ended."""

    case: Case
    passes: list[str] = field(default_factory=list)
    """``table`` or ``refused`` of each pass."""
    violation: str = ""
    seconds: float = 0.0


def run_case(case: Case, folder: Path, reference: Reference) -> Outcome:
    """Run a case in an empty folder."""
    outcome, begin = Outcome(case), time.monotonic()
    place = Place.make(folder, case.name, case.path, reference.prepared)
    try:
        for number, settings in enumerate(case.passes):
            work, log = WAYS[case.way](place, settings), folder / "log"
            if case.kill and number == 0:
                run_command(work.commands[0], place.cwd, log, kill=case.kill, seconds=case.seconds)
            codes = [run_command(command, place.cwd, log) for command in work.commands]
            # A run directory has one training; another one is refused.
            trained = settings if codes[0] == 0 else case.passes[0]
            if codes[-1] == 0:
                tasks = work.succeeded(codes)
                check_report(*place.outputs(case.way), tasks, trained.training, work.windows, reference)
            outcome.passes.append(
                "table" if not any(codes) else "refused" if all(codes) else "table, refused"
            )
    except Violation as violation:
        outcome.violation = str(violation)
    outcome.seconds = time.monotonic() - begin
    return outcome


def main() -> int:
    """Run the command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, required=True, help="folder for data, references and cases")
    arguments.add_argument("--cases", type=int, default=300)
    arguments.add_argument("--first", type=int, default=0, help="number of the first case")
    arguments.add_argument("--case", type=int, help="run this one only")
    given = arguments.parse_args()
    numbers = range(given.first, given.first + given.cases) if given.case is None else [given.case]
    reference, outcomes = Reference(given.out / "reference"), list[Outcome]()
    for number in numbers:
        case = Case.draw(number)
        outcome = run_case(case, given.out / f"case{number}", reference)
        outcomes.append(outcome)
        ended = outcome.violation or ", ".join(outcome.passes)
        print(f"{case}: {outcome.seconds:.0f} s: {ended}", flush=True)
    print(f"\n{'way':8}{'ended with':24}{'cases':>6}")
    counts = Counter((o.case.way, "violation" if o.violation else ", ".join(o.passes)) for o in outcomes)
    for (way, ended), count in sorted(counts.items()):
        print(f"{way:8}{ended:24}{count:6}")
    failed = [outcome.case.number for outcome in outcomes if outcome.violation]
    if failed:
        print(f"violations: repeat with --case {' or '.join(map(str, failed))}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
