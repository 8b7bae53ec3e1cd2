r"""The linear SVM of A.5: our solver and scikit-learn's LinearSVC, by time, objective and accuracy.

python benchmarks/svm.py                                          # 24,000 x 768, 101 classes
python benchmarks/svm.py --rows 238000 --reference 0              # as many rows as UCF101 has
python benchmarks/svm.py --data PREPARED --features RUN/scores/features/teacher-video-train-*.npy

The features are written to a file and memory-mapped. Synthetic ones are a center for each class, a deviation
for each clip and one for each of its 25 windows, in directions whose scales fall as 1/k, plus a mean. A fifth
of all rows, of other clips, is for testing. The problems of LinearSVC are independent, so it is measured on
some classes, spread evenly, and multiplied; the time to convert the features, which it needs once, is
subtracted (that of a fit with C 1e-12). Its top-1 is that of our outputs with those of its classes put in
their place. Seconds are of processor time, of all threads, which other processes change less than the time
on the clock; OMP_NUM_THREADS=1 gives both one thread.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from benchmarks.common import parser
from benchmarks.memory import resident
from xkd.data.shards.manifest import PreparedDataset
from xkd.evaluation.protocols.svm import COSTS
from xkd.evaluation.protocols.svm_solver import OneVsRest, Rows
from xkd.parallel.threads import limit_threads

WINDOWS = 25
CPU = torch.device("cpu")

Array = NDArray[Any]


def synthetic(path: Path, rows: int, dim: int, classes: int) -> Array:
    """Write features of five quarters of the rows, by clip; return the class of each."""
    rng = np.random.default_rng(0)
    scales = np.arange(1, dim + 1) ** -1.0
    mix = np.linalg.qr(rng.normal(size=(dim, dim)))[0] * np.sqrt(dim) / np.linalg.norm(scales)
    mix = (scales[:, None] * mix).astype(np.float32)
    mean, centers = rng.normal(size=dim), 0.5 * rng.normal(size=(classes, dim))
    clips = rows * 5 // 4 // WINDOWS
    targets = rng.integers(0, classes, clips)
    file = np.lib.format.open_memmap(path, "w+", np.float32, (clips * WINDOWS, dim))
    for part in np.array_split(np.arange(clips), 1 + clips // 200):
        latent = centers[targets[part]] + rng.normal(size=(len(part), dim))
        latent = np.repeat(latent, WINDOWS, axis=0).astype(np.float32)
        latent += 0.5 * rng.standard_normal(latent.shape, np.float32)
        file[part[0] * WINDOWS : (part[-1] + 1) * WINDOWS] = latent @ mix + mean
    file.flush()
    return np.repeat(targets, WINDOWS)


def of_a_run(path: Path, data: Path, features: Path) -> Array:
    """Write the training features of a run in a random order of clips; return the classes."""
    modality = features.name.split("-")[1]
    dataset = PreparedDataset.open(data)
    clips = [c for c in dataset.clips if "train" in c.splits and c.has(modality)]  # type: ignore[arg-type]
    values = np.load(features)
    order = np.random.default_rng(0).permutation(len(clips))
    np.save(path, values[order].reshape(-1, values.shape[-1]))
    targets = np.array([dataset.classes.index(clip.labels[0]) for clip in clips])
    return np.repeat(targets[order], values.shape[1])


class Peak:
    """The most memory of this process while it is open, without that of mapped files."""

    def __enter__(self) -> Peak:
        self._begin = self._most = resident("RssAnon")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.bytes = self._most - self._begin

    def _watch(self) -> None:
        while not self._stopped.wait(0.02):
            self._most = max(self._most, resident("RssAnon"))


def outputs(weights: Array, features: Array) -> Array:
    """Return x·w of each row and class."""
    return np.concatenate(
        [
            block @ weights[:, :-1].T + weights[:, -1]
            for block in np.array_split(features, 1 + len(features) // 4096)
        ]
    )


def objective(weights: Array, chosen: Array, features: Array, targets: Array, cost: float) -> Array:
    """Return f of the chosen classes."""
    y = np.where(targets[:, None] == chosen, 1, -1)
    losses = (np.maximum(0, 1 - y * outputs(weights, features)) ** 2).sum(axis=0)
    result: Array = (weights**2).sum(axis=1) / 2 + cost * losses
    return result


def processor_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


class Reference:
    """LinearSVC on some classes."""

    def __init__(self, dual: bool | str, features: Array, targets: Array, chosen: Array) -> None:
        self.dual, self.features, self.targets, self.chosen = dual, features, targets, chosen
        self.conversion = self.fit_one(chosen[0], 1e-12)[0]

    def fit_one(self, one: int, cost: float) -> tuple[float, Array, bool]:
        """Return seconds, weights, and whether it converged."""
        machine = LinearSVC(C=cost, max_iter=1000, random_state=0, dual=self.dual)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            seconds = processor_seconds(lambda: machine.fit(self.features, self.targets == one))
        return seconds, np.append(machine.coef_, machine.intercept_), machine.n_iter_ < 1000

    def fit(self, cost: float) -> tuple[float, Array, int]:
        """Return seconds per class, weights, and the number of classes that did not converge."""
        fits = [self.fit_one(one, cost) for one in self.chosen]
        seconds = sum(max(0.0, fit[0] - self.conversion) for fit in fits) / len(fits)
        return seconds, np.stack([fit[1] for fit in fits]), sum(not fit[2] for fit in fits)


def compare(arguments: argparse.Namespace, path: Path, targets: Array) -> None:
    """Print the table."""
    everything = np.load(path, mmap_mode="r")
    rows, classes = len(targets) * 4 // 5, int(targets.max()) + 1
    features, test = everything[:rows], everything[rows:]
    targets, test_targets = targets[:rows], targets[rows:]
    print(f"{rows:,} x {features.shape[1]}, {classes} classes, {torch.get_num_threads()} threads; ", end="")
    print(f"torch {torch.__version__}, scikit-learn {sklearn.__version__}\n", flush=True)
    count = min(arguments.reference, classes)
    chosen = np.linspace(0, classes - 1, count).round().astype(int)
    ours = []
    begin, total = time.perf_counter(), -time.process_time()
    with Peak() as peak:
        data = Rows(features, CPU)
        machines = OneVsRest(data, torch.from_numpy(targets), torch.arange(classes))
        start = total + time.process_time()
        for cost in COSTS:
            left: list[int] = []
            seconds = processor_seconds(lambda cost=cost, left=left: left.append(machines.minimize(cost)))  # type: ignore[misc]
            print(f"C {cost:g}: {seconds:.2f} s", file=sys.stderr, flush=True)
            ours.append((seconds, machines.weights.numpy().copy(), left[0]))
    total += time.process_time()
    clock = time.perf_counter() - begin
    references: dict[str, Reference] = {}
    if count:
        memory = np.array(features)
        references = {
            name: Reference(dual, memory, targets, chosen)
            for name, dual in (("LinearSVC", "auto"), ("dual", True))
            if name == "LinearSVC" or not arguments.no_dual
        }
    head = ["C", "ours, s", "not converged", "top-1"]
    for name in references:
        head += [f"{name}, s", "ratio", "not converged", "objective, ours to its", "top-1"]
    print(f"| {' | '.join(head)} |\n|{'---:|' * len(head)}", flush=True)
    sums = dict.fromkeys(references, 0.0)
    for cost, (seconds, weights, missed) in zip(COSTS, ours, strict=True):
        scores = outputs(weights, test)
        row = [f"{cost:g}", f"{seconds:.2f}", f"{missed}", f"{(scores.argmax(1) == test_targets).mean():.2%}"]
        for name, reference in references.items():
            each, found, failed = reference.fit(cost)
            sums[name] += each * classes
            mine = objective(weights[chosen], chosen, features, targets, cost)
            excess = mine / objective(found, chosen, features, targets, cost) - 1
            mixed = scores.copy()
            mixed[:, chosen] = outputs(found, test)
            row += [f"{each * classes:,.1f}", f"{each * classes / seconds:.1f}", f"{failed} of {count}"]
            row += [f"{excess.min():+.0e} to {excess.max():+.0e}"]
            row += [f"{(mixed.argmax(1) == test_targets).mean():.2%}"]
        print(f"| {' | '.join(row)} |", flush=True)
    print(
        f"\nsweep: ours {total:.1f} s (of it {start:.1f} before the first cost; {clock:.1f} on the clock)",
        end="",
    )
    for name, seconds in sums.items():
        print(f"; {name} {seconds:,.0f} s, {seconds / total:.1f} times ours", end="")
    print(f"; most memory {peak.bytes / 2**20:,.0f} MiB in addition to the features")


def main() -> None:
    """Measure."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=24000)
    arguments.add_argument("--dim", type=int, default=768)
    arguments.add_argument("--classes", type=int, default=101)
    arguments.add_argument("--reference", type=int, default=2, help="classes that LinearSVC is measured on")
    arguments.add_argument("--no-dual", action="store_true", help="do not measure LinearSVC(dual=True)")
    arguments.add_argument("--data", type=Path, help="prepared dataset of --features")
    arguments.add_argument("--features", type=Path, help="training features that xkd evaluate stored")
    given = arguments.parse_args()
    limit_threads()
    with TemporaryDirectory() as folder:
        path = Path(folder, "features.npy")
        if given.features:
            targets = of_a_run(path, given.data, given.features)
        else:
            targets = synthetic(path, given.rows, given.dim, given.classes)
        compare(given, path, targets)


if __name__ == "__main__":
    main()
