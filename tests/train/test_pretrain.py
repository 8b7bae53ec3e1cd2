"""Pretraining on real clips in real processes: resuming, reproducibility, errors."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import xkd
from tests.tiny import tiny_config, zero_centers
from xkd.config import LossConfig, PretrainConfig
from xkd.config.overrides import to_dict
from xkd.config.presets import get_preset
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import CollapsedError, RunInterruptedError, UserError
from xkd.evaluation.evaluate import evaluate
from xkd.evaluation.plan import make_task
from xkd.launch.distributed import DistributedContext
from xkd.model.terms import DIRECTIONS
from xkd.model.xkd import XKD
from xkd.monitor.metrics import KNN, METRICS, RUN_VERDICTS, TABLE, VALIDATION_LOSS
from xkd.report.tabulate import tabulate
from xkd.rundir import RunDir, read_rows
from xkd.train.checkpoint import Checkpoints
from xkd.train.initial import initial_weights
from xkd.train.pretrain import pretrain
from xkd.train.publish import save_encoders
from xkd.train.run_state import RunState, git_commit
from xkd.train.schedules import schedule
from xkd.train.step import Stepper

pytestmark = pytest.mark.system

NOT_REPEATED = {
    "time",
    "checkpoint_time",
    "eta_seconds",
    "samples_per_second",
    "seconds_data_wait",
    "seconds_forward",
    "seconds_backward",
    "seconds_data_wait_by_rank",
    "seconds_forward_by_rank",
    "seconds_optimizer",
    "step_seconds",
}


SIGNALED = """
import itertools, signal, sys
from xkd.launch.termination import run_worker
from xkd.train.pretrain import main
from xkd.train.schedules import schedule
from xkd.train.step import Stepper

number, at = int(sys.argv.pop(1)), int(sys.argv.pop(1))
step, steps = Stepper.step, itertools.count(1)

def signaled(*given):
    if next(steps) == at:
        signal.raise_signal(number)
    return step(*given)

Stepper.step = signaled
run_worker(main)
"""
"""A training process that receives a signal as it begins a step, however fast it is."""
SLEEP = 0.05
STRAGGLER = f"""
import os, time
from xkd.launch.termination import run_worker
from xkd.model.xkd import XKD
from xkd.train.pretrain import main

forward = XKD.forward

def slow(*given):
    if os.environ["RANK"] == "1":
        time.sleep({SLEEP})
    return forward(*given)

XKD.forward = slow
run_worker(main)
"""
"""A training process that is slow if it is the second."""


def train(
    config: PretrainConfig, data: Path, out: Path, *program: str | int, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Train in another process as torchrun does, or by another program with the same arguments."""
    program = program or ("-m", "xkd.train.pretrain")
    settings = ["--settings", json.dumps(to_dict(config)), "--data", str(data), "--out", str(out)]
    command = [sys.executable, *map(str, program), *settings]
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if program == TWO_PROCESSES else {})
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=check)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
TWO_PROCESSES = (*TORCHRUN, "--nproc-per-node=2", "-m", "xkd.train.pretrain")


def new_stepper() -> Stepper:
    config = tiny_config()
    return Stepper(XKD(config), config, DistributedContext(0, 1, torch.device("cpu")))


def numbers(run: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k not in NOT_REPEATED} for row in read_rows(run / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of the tiny configuration: 4 epochs of 7 steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(tiny_config(), prepared, out)
    return out


def test_the_run_id_of_a_pipeline_is_recorded(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    manifest = PreparedDataset.open(prepared)
    context = DistributedContext(0, 1, torch.device("cpu"))
    run = RunDir(tmp_path / "run")
    run.claim(config)
    assert RunState(run, manifest, context).info["kfp_run"] == ""
    monkeypatch.setenv("KFP_RUN_ID", "6f3c")
    assert RunState(run, manifest, context).info["kfp_run"] == "6f3c"


def test_a_run_writes_everything_that_the_next_stages_read(whole: Path) -> None:
    rows = numbers(whole)
    assert [row["step"] for row in rows] == list(range(1, 29))
    assert rows[-1]["reconstruct"] < rows[0]["reconstruct"]
    for row in rows:
        for d in DIRECTIONS:
            parts = row[f"kld_{d}"] + row[f"teacher_entropy_{d}"]
            assert row[f"kd_{d}"] == pytest.approx(parts, rel=1e-5)
            assert row[f"teacher_entropy_{d}"] <= row[f"batch_entropy_{d}"] + 1e-5  # entropy is concave
    assert set(rows[-1]) <= {field for metric in TABLE for field in metric.fields.values()}
    missing = {field for metric in METRICS for field in metric.fields.values()} - set(rows[-1])
    elsewhere = {"loss_scale", "align_video_to_audio", "align_audio_to_video", "interrupted_time"}
    elsewhere |= {"gpu_memory_bytes", "gpu_memory_capacity_bytes"}
    elsewhere |= {VALIDATION_LOSS, *KNN.values()}  # with run.probe_every
    constant = {
        "steps",
        "log_every",
        "rollbacks",
        "largest_entropy",
        "largest_information",
        "collapse_threshold",
    }
    constant |= {f"skipped_{reason}" for reason in ("unprepared", "without_modality", "too_short")}
    constant |= {f"verdict_{v}" for v in RUN_VERDICTS}
    assert missing - NOT_REPEATED == elsewhere | constant
    facts = json.loads((whole / "run.json").read_text())
    assert facts["dataset"] == "embedded"
    assert facts["steps"] == 28
    assert json.loads((whole / "verdict.json").read_text())["step"] == 28
    pictures = torch.load(whole / "reconstruction.pt", weights_only=True)
    assert pictures["video"]["reconstructed"].shape == (5, 3, 3, 8, 32, 32)
    assert pictures["audio"]["original"].shape == (3, 1, 80, 448)
    encoder = xkd.load(whole / "encoders" / "teacher_video.safetensors")
    assert encoder.pool(encoder(torch.randn(2, 3, 32, 32, 32))).shape == (2, 32)


def test_snapshots_are_runs_and_change_nothing(whole: Path, prepared: Path, tmp_path: Path) -> None:
    config = tiny_config()
    pretrain(replace(config, run=replace(config.run, snapshots=(1, 4))), prepared, tmp_path / "run")
    first, last = (RunDir(tmp_path / "run").snapshot(epoch) for epoch in (1, 4))
    assert (first.verdict().step, last.verdict().step) == (7, 28)
    for file in RunDir(whole).encoders.iterdir():
        weights, early, late = (
            load_file(folder / file.name) for folder in (file.parent, first.encoders, last.encoders)
        )
        assert all(late[name].equal(weights[name]) for name in weights)
        assert not all(early[name].equal(weights[name]) for name in weights)
    score = evaluate(first.path, prepared, make_task("embedded", "video", "svm", "teacher"), first.scores)
    assert score.test_clips > 0


def test_one_modality_alone_can_be_trained_evaluated_and_reported(prepared: Path, tmp_path: Path) -> None:
    """VideoMAE (Table S16): no teacher, no projector, no sound; what was not trained is not judged."""
    config, run = tiny_config(), tmp_path / "run"
    config = replace(
        config,
        modalities=("video",),
        video=replace(config.video, patch=(4, 8, 8), mask="tube", local_views=0, local_view=(8, 16, 16)),
        audio=replace(config.audio, local_views=0),
        loss=LossConfig(align=0.0, distill=0.0),
        optim=replace(config.optim, epochs=2),
    )
    verdict = pretrain(config, prepared, run)
    assert verdict.verdict == "healthy"
    assert "nothing is distilled" in verdict.reason
    assert [path.name for path in (run / "encoders").iterdir()] == ["student_video.safetensors"]
    assert not [name for name in numbers(run)[-1] if name.startswith(("kd", "align", "reconstruct_audio"))]
    one = {"train_windows": 1, "test_windows": 1}
    evaluate(run, prepared, make_task("embedded", "video", "svm", "student", 1, one), run / "scores")
    with pytest.raises(UserError, match=r"no encoder at .*teacher_video"):
        evaluate(run, prepared, make_task("embedded", "video", "svm", "teacher"), run / "scores")
    report = tabulate(run, run / "scores", run / "report").read_text()
    assert "Reconstruction, video" in report
    assert "the run has no distillation" in report
    assert "a run on one modality has no teachers" in report


@pytest.mark.system
def test_a_killed_run_resumes_bit_equal(whole: Path, prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    killed = train(tiny_config(), prepared, out, "-c", SIGNALED, signal.SIGKILL, 12, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "verdict.json").exists()
    assert "resumed after step 10" in train(tiny_config(), prepared, out).stderr
    assert numbers(out) == numbers(whole)
    for role in ("teacher", "student"):
        name = f"encoders/{role}_video.safetensors"
        assert (out / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.system
def test_a_run_resumes_with_another_number_of_processes(whole: Path, prepared: Path, tmp_path: Path) -> None:
    """The clips and masks stay those of the whole batch; only the MMD sees other rows from there on."""
    config, out = tiny_config(), tmp_path / "run"
    train(config, prepared, out, "-c", SIGNALED, signal.SIGKILL, 5, check=False)
    assert "resumed after step 4" in train(config, prepared, out, *TWO_PROCESSES).stderr
    assert [row["step"] for row in numbers(out)] == list(range(1, 29))
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    after, reference = numbers(out)[4], numbers(whole)[4]
    for name in ("reconstruct_video", "reconstruct_audio"):
        assert after[name] == pytest.approx(reference[name], rel=1e-5), name


def test_a_finished_run_is_not_trained_again(whole: Path, prepared: Path) -> None:
    before = (whole / "metrics.jsonl").stat().st_mtime_ns
    assert pretrain(tiny_config(), prepared, whole).step == 28
    assert (whole / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("left", "right", "alignment"),
    [((1, 1), (2, 1), "gather"), ((1, 2), (2, 1), "apart"), ((1, 4), (2, 2), "apart")],
    ids=["processes", "parts", "parts-of-processes"],
)
@pytest.mark.system
def test_steps_do_not_depend_on_the_number_of_processes_and_parts(
    tmp_path: Path, left: tuple[int, int], right: tuple[int, int], alignment: str
) -> None:
    """In float64: losses, weights and centers are the same however a batch is divided.

    The MMD of a part is not that of the batch, so both sides have equal parts, or gather them.
    """
    results = []
    for processes, parts in (left, right):
        out = tmp_path / f"{processes}-{parts}.pt"
        training = ["-m", "tests.system.two_processes", str(out), str(parts), alignment]
        command = [sys.executable, *TORCHRUN, f"--nproc-per-node={processes}", *training]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        results.append(torch.load(out, weights_only=True))
    one, two = results
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-10, atol=0)
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.system
def test_two_processes_train_on_the_same_clips_as_one(whole: Path, prepared: Path, tmp_path: Path) -> None:
    """Through the whole loop, in float32 and with each process's own MMD: the other terms agree.

    The rows show which process is slow.
    """
    out = tmp_path / "run"
    straggler = tmp_path / "straggler.py"
    straggler.write_text(STRAGGLER)
    train(tiny_config(), prepared, out, *TWO_PROCESSES[:-2], str(straggler))
    first, reference = numbers(out)[0], numbers(whole)[0]
    for name in ("reconstruct_video", "reconstruct_audio", "kd_video_to_audio", "kd_audio_to_video"):
        assert first[name] == pytest.approx(reference[name], rel=1e-5), name
    for row in read_rows(out / "metrics.jsonl"):
        for phase in ("data_wait", "forward"):
            mine, other = row[f"seconds_{phase}_by_rank"]
            assert mine == pytest.approx(row[f"seconds_{phase}"])
            assert other > 0
        # The other process slept in each step, and this one waited for it in its backward pass.
        assert row["seconds_forward_by_rank"][1] >= SLEEP
        assert row["step_seconds"] >= SLEEP


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    stepper = new_stepper()
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, stepper)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*step_00000002\.pt: .*File too large; .*intact"):
            checkpoints.save(2, stepper)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]
    assert checkpoints.resume(stepper) == 1


def test_a_truncated_checkpoint_falls_back_to_the_previous_one(tmp_path: Path) -> None:
    stepper = new_stepper()
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, stepper)
    newest = tmp_path / "step_00000003.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="unreadable"):
        assert checkpoints.resume(stepper) == 2


def test_a_run_without_readable_checkpoints_is_not_restarted(tmp_path: Path) -> None:
    stepper = new_stepper()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(5, stepper)
    (tmp_path / ".step_00000006.pt.77").write_bytes(b"of a save that was killed")
    (tmp_path / "step_00000005.pt").write_bytes(b"torn")
    with (
        pytest.warns(UserWarning, match=r"step_00000005\.unreadable is unreadable"),
        pytest.raises(UserError, match=r"no checkpoint in .* is readable"),
    ):
        checkpoints.resume(stepper)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005.unreadable"]
    with pytest.raises(UserError, match=r"no checkpoint in .* is readable"):
        checkpoints.resume(stepper)


def test_another_configuration_is_rejected_with_the_settings_that_differ(whole: Path, prepared: Path) -> None:
    config = tiny_config()
    other = replace(config, optim=replace(config.optim, lr=2e-3))
    with pytest.raises(UserError, match=r"another optim\.lr 0\.001 \(not 0\.002\); use another --out"):
        pretrain(other, prepared, whole)


def test_many_settings_that_differ_are_counted(tmp_path: Path) -> None:
    RunDir(tmp_path / "run").claim(tiny_config())
    with pytest.raises(UserError, match=r"another preset tiny \(not toy\), .* and \d+ more; use another"):
        RunDir(tmp_path / "run").claim(get_preset("toy"))


def test_a_run_that_has_ended_says_that_nothing_was_trained(
    whole: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(tiny_config(), prepared, whole)
    step = RunDir(whole).verdict().step
    assert f"pretrain: {whole} ended at step {step}; nothing was trained" in capsys.readouterr().err


@pytest.mark.system
def test_invalid_settings_are_one_line_errors(prepared: Path, tmp_path: Path) -> None:
    config = tiny_config()
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        mistakes: dict[str, dict[str, Any]] = {
            "optim.batch_size 64 exceeds the number of training clips, 30": {
                "optim": replace(config.optim, batch_size=64)
            },
            f"metrics_port {port}: Address already in use": {"run": replace(config.run, metrics_port=port)},
        }
        if not torch.cuda.is_available():
            mistakes["run.precision fp16 needs a GPU"] = {"run": replace(config.run, precision="fp16")}
        for number, (line, mistake) in enumerate(mistakes.items()):
            done = train(replace(config, **mistake), prepared, tmp_path / f"run{number}", check=False)
            assert done.returncode == 2
            assert line in done.stderr
            assert "Traceback" not in done.stderr
    # Mistakes found before training leave no run behind that would conflict with the corrected command.
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU needs a C compiler, and finds any")
@pytest.mark.system
def test_compiling_without_a_compiler_is_a_one_line_error(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    config = tiny_config()
    config = replace(config, run=replace(config.run, compile=True))
    done = train(config, prepared, tmp_path / "run", check=False)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "CUDA" not in line]
    assert "run.compile: torch.compile does not work here (InvalidCxxCompiler: No working C++" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.system
def test_missing_data_is_a_one_line_error(tmp_path: Path) -> None:
    done = train(tiny_config(), tmp_path / "nowhere", tmp_path / "run", check=False)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "nowhere does not exist" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.system
def test_a_signal_saves_and_stops(
    whole: Path, prepared: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out, config = tmp_path / "stopped", tiny_config()
    rarely = replace(config, run=replace(config.run, checkpoint_every=1000))
    stopped = train(rarely, prepared, out, "-c", SIGNALED, number, 5, check=False)
    assert stopped.returncode == RunInterruptedError.exit_code == 75
    assert "Interrupted: saved at step 5 of 28" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_00000005.pt"]
    assert [row["step"] for row in numbers(out)] == [1, 2, 3, 4, 5]
    spent = json.loads((out / "run.json").read_text())["seconds"]
    assert spent > 0
    pretrain(rarely, prepared, out)
    assert numbers(out) == numbers(whole)
    assert json.loads((out / "run.json").read_text())["seconds"] > spent


def test_the_first_non_finite_term_stops_the_run_and_is_reported(prepared: Path, tmp_path: Path) -> None:
    """Use a learning rate at which any model diverges, logged rarely: no bad state is saved in between."""
    config = tiny_config()
    config = replace(
        config,
        optim=replace(config.optim, lr=1e30, warmup_epochs=0, clip_norm=1e30),
        run=replace(config.run, log_every=1000, checkpoint_every=1),
    )
    with pytest.raises(CollapsedError, match="the run ended as non_finite") as ended:
        pretrain(config, prepared, tmp_path / "run")
    reason = str(ended.value)
    step = int(re.search(r"not finite at step (\d+)", reason).group(1))  # type: ignore[union-attr]
    assert f"the last good state is {tmp_path}/run/checkpoints/step_{step - 1:08d}.pt" in reason
    state = torch.load(tmp_path / f"run/checkpoints/step_{step - 1:08d}.pt", weights_only=True)
    assert all(value.isfinite().all() for value in state["model"].values())
    assert not (tmp_path / "run" / "encoders").exists()


def test_saved_encoders_are_loaded_unchanged(tmp_path: Path) -> None:
    config = tiny_config()
    model = XKD(config)
    save_encoders(model, RunDir(tmp_path), zero_centers(config))
    loaded = xkd.load(tmp_path / "encoders" / "student_audio.safetensors")
    for name, value in model.student["audio"].encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    (tmp_path / "other.safetensors").write_bytes(b"not one")
    with pytest.raises(UserError, match="not a safetensors file"):
        xkd.load(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no encoder at"):
        xkd.load(tmp_path / "missing.safetensors")


def test_the_commit_is_known_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an image, which has neither git nor a checkout."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("XKD_COMMIT", "abc")
    assert git_commit() == "abc"


def test_a_finished_run_continues_for_more_epochs(whole: Path, prepared: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "run", tiny_config()
    shutil.copytree(whole, out)
    more = replace(config, optim=replace(config.optim, epochs=6))
    with pytest.raises(UserError, match=r"has 4 epochs; to extend it, set optim.epochs to more"):
        pretrain(config, prepared, out, extend=True)
    with pytest.raises(UserError, match=r"another optim.lr .*; --extend changes only optim.epochs"):
        pretrain(replace(more, optim=replace(more.optim, lr=1.0)), prepared, out, extend=True)
    assert RunDir(out).verdict() == RunDir(whole).verdict()
    verdict = pretrain(more, prepared, out, extend=True)
    assert verdict.step == 42
    rows = numbers(out)
    assert rows[:28] == numbers(whole)
    # The schedules are those of a run of six epochs.
    values = schedule(more, 28, 42, 7)
    assert rows[28]["lr"] == values["lr"] > rows[27]["lr"]
    assert RunDir(out).info()["extended_after"] == [28]
    assert (out / "encoders_step_00000028" / "teacher_video.safetensors").is_file()
    assert pretrain(more, prepared, out) == verdict
    with pytest.raises(UserError, match="has 6 epochs"):
        pretrain(more, prepared, out, extend=True)


def test_an_interrupted_extension_is_resumed(whole: Path, prepared: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "run", tiny_config()
    shutil.copytree(whole, out)
    more = replace(config, optim=replace(config.optim, epochs=6))
    RunDir(out).claim(more, extend=True)
    assert not RunDir(out).ended
    assert pretrain(more, prepared, out, extend=True).step == 42


def test_only_a_run_can_be_extended(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run in .* to extend"):
        pretrain(tiny_config(), prepared, tmp_path / "run", extend=True)


def test_a_run_starts_from_the_weights_of_another(whole: Path, prepared: Path, tmp_path: Path) -> None:
    config = tiny_config()
    new = replace(config, init=str(whole), run=replace(config.run, seed=5))
    weights = initial_weights(new)
    model = XKD(new)
    model.load_state_dict(weights)  # all of them
    pretrain(new, prepared, tmp_path / "run")
    assert numbers(tmp_path / "run")[0]["reconstruct"] < numbers(whole)[0]["reconstruct"]
    with pytest.raises(UserError, match=r"another init|init: "):
        pretrain(replace(new, init=None), prepared, tmp_path / "run")


def test_a_run_starts_from_published_encoders(whole: Path, tmp_path: Path) -> None:
    source = tmp_path / "imported"
    shutil.copytree(whole, source, ignore=shutil.ignore_patterns("checkpoints", "student_*"))
    config = tiny_config()
    weights = initial_weights(replace(config, init=str(source)))
    teacher = xkd.load(whole, "video").state_dict()
    for name, value in teacher.items():
        assert torch.equal(weights[f"teacher.video.encoder.{name}"], value)
        assert torch.equal(weights[f"student.video.encoder.{name}"], value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not one", "is not a weights file of torch, or is damaged: Unsupported operand 110$"),
        ({"weights": 1}, r"init: .*step_00000001\.pt is not a checkpoint of xkd pretrain$"),
    ],
    ids=str,
)
def test_a_run_with_an_unreadable_or_foreign_checkpoint_is_no_start(
    content: object, reason: str, tmp_path: Path
) -> None:
    source, config = RunDir(tmp_path / "source"), tiny_config()
    source.claim(config)
    source.checkpoints.mkdir()
    file = source.checkpoints / "step_00000001.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(UserError, match=reason):
        initial_weights(replace(config, init=str(source.path)))


def test_weights_of_other_networks_are_refused(whole: Path, prepared: Path, tmp_path: Path) -> None:
    config = tiny_config()
    wide = replace(config, encoder=replace(config.encoder, dim=2 * config.encoder.dim))
    wide = replace(wide, init=str(whole))
    with pytest.raises(UserError, match=r"init: .* have other sizes; it differs in encoder.dim"):
        pretrain(wide, prepared, tmp_path / "run")
    nowhere = replace(config, init=str(tmp_path))
    with pytest.raises(UserError, match="no run in"):
        pretrain(nowhere, prepared, tmp_path / "run")
    assert not (tmp_path / "run").exists()
