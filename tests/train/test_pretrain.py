"""Pretraining on real clips in real processes: it resumes, agrees with itself and refuses mistakes."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_config
from xkd import load_encoder
from xkd.config import PretrainConfig
from xkd.errors import UserError
from xkd.method.model import XKD
from xkd.settings import to_yaml
from xkd.train.checkpoint import Checkpoints, save_encoders
from xkd.train.optimizer import build_optimizer
from xkd.train.pretrain import pretrain
from xkd.watch.telemetry import Telemetry, read_rows

NOT_REPEATED = {"time", "step_seconds", "samples_per_second", "data_wait_ratio"}


def start(config: PretrainConfig, data: Path, out: Path, **options: Any) -> subprocess.Popen[str]:
    """A training process of its own, as torchrun would start it."""
    settings = out.with_suffix(".yaml")
    settings.write_text(to_yaml(config))
    command = [sys.executable, "-m", "xkd.train.pretrain", "--config", settings, "--data", data, "--out", out]
    return subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


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


def test_a_run_leaves_what_the_next_verbs_need(whole: Path) -> None:
    rows = numbers(whole)
    assert [row["step"] for row in rows] == list(range(1, 29))
    assert rows[-1]["reconstruct"] < rows[0]["reconstruct"]
    for row in rows:
        assert row["kd_video_to_audio"] == pytest.approx(
            row["kld_video_to_audio"] + row["teacher_entropy_video"], rel=1e-5
        )
    facts = json.loads((whole / "run.json").read_text())
    assert facts["dataset"] == "embedded"
    assert facts["steps"] == 28
    assert json.loads((whole / "verdict.json").read_text())["step"] == 28
    pictures = torch.load(whole / "reconstruction.pt", weights_only=True)
    assert pictures["video"]["reconstructed"].shape == (4, 3, 32, 32, 32)
    assert pictures["audio"]["masked"].shape == (4, 1, 80, 448)
    for picture in pictures["video"].values():
        assert 0 <= picture.min() <= picture.max() <= 1
    encoder = load_encoder(whole / "encoders" / "teacher_video.safetensors")
    assert encoder.pool(encoder(torch.randn(2, 3, 32, 32, 32))).shape == (2, 32)


def test_a_killed_run_resumes_as_if_nothing_had_happened(whole: Path, prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = start(tiny_config(), prepared, out)
    while len(read_rows(out / "metrics.jsonl")) < 9:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (out / "verdict.json").exists()
    again = start(tiny_config(), prepared, out)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert "resumed after step" in said
    assert numbers(out) == numbers(whole)
    for role in ("teacher", "student"):
        name = f"encoders/{role}_video.safetensors"
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_finished_run_is_not_repeated(whole: Path, prepared: Path) -> None:
    before = (whole / "metrics.jsonl").stat().st_mtime_ns
    assert pretrain(tiny_config(), prepared, whole).step == 28
    assert (whole / "metrics.jsonl").stat().st_mtime_ns == before


def test_two_processes_equal_one(tmp_path: Path) -> None:
    results = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pt"
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*torchrun, "-m", "tests.train.two_processes", str(out)], check=True, env=environment)
        results.append(torch.load(out, weights_only=True))
    one, two = results
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-10, atol=0)
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-7, atol=1e-9, msg=name)


def test_two_processes_train_on_the_same_clips_as_one(whole: Path, prepared: Path, tmp_path: Path) -> None:
    """Through the whole loop, in float32 and with each process's own MMD: the other terms agree."""
    config, settings = tiny_config(), tmp_path / "config.yaml"
    settings.write_text(to_yaml(config))
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = ["-m", "xkd.train.pretrain", "--config", settings, "--data", prepared, "--out", out]
    subprocess.run([*torchrun, *map(str, worker)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    first, reference = numbers(out)[0], numbers(whole)[0]
    for name in ("reconstruct_video", "reconstruct_audio", "kd_video_to_audio", "kd_audio_to_video"):
        assert first[name] == pytest.approx(reference[name], rel=1e-5), name


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    config = tiny_config()
    model = XKD(config)
    optimizer = build_optimizer(model, config.optim)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, model, optimizer)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*step_00000002\.pt: .*File too large; .*intact"):
            checkpoints.save(2, model, optimizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]
    state = checkpoints.load_newest(torch.device("cpu"))
    assert state is not None
    assert state["step"] == 1


def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    config = tiny_config()
    model = XKD(config)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, model, build_optimizer(model, config.optim))
    newest = tmp_path / "step_00000003.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="unreadable"):
        state = checkpoints.load_newest(torch.device("cpu"))
    assert state is not None
    assert state["step"] == 2


def test_another_configuration_is_refused_by_name(whole: Path, prepared: Path) -> None:
    config = tiny_config()
    other = replace(config, optim=replace(config.optim, lr=2e-3))
    with pytest.raises(UserError, match=r"another optim\.lr; use another --out"):
        pretrain(other, prepared, whole)


def test_mistakes_are_one_line(prepared: Path, tmp_path: Path) -> None:
    config = tiny_config()
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        mistakes: dict[str, dict[str, Any]] = {
            "optim.batch_size 64 is more than the 30": {"optim": replace(config.optim, batch_size=64)},
            f"metrics_port {port}: Address already in use": {"run": replace(config.run, metrics_port=port)},
        }
        for number, (line, mistake) in enumerate(mistakes.items()):
            process = start(replace(config, **mistake), prepared, tmp_path / f"run{number}")
            _, said = process.communicate(timeout=60)
            assert process.returncode == 2
            assert line in said
            assert "Traceback" not in said
    # What can be told before training starts leaves no run behind that a corrected command would trip over.
    assert not (tmp_path / "run0").exists()


def test_missing_data_is_one_line(tmp_path: Path) -> None:
    process = start(tiny_config(), tmp_path / "nowhere", tmp_path / "run")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.strip().count("\n") == 0
    assert "nowhere does not exist" in said


def test_sigterm_ends_training(prepared: Path, tmp_path: Path) -> None:
    process = start(tiny_config(), prepared, tmp_path / "run")
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) != 0


def test_the_endpoint_shows_nan_until_the_first_row(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path, port=0)
    assert telemetry.address is not None

    def page() -> str:
        with urllib.request.urlopen(str(telemetry.address)) as answer:
            return str(answer.read().decode())

    series = f'xkd_kd_nats{{direction="video_to_audio",run="{tmp_path.name}"}}'
    assert f"{series} NaN" in page()
    telemetry.log({"step": 1, "kd_video_to_audio": 2.5})
    assert f"{series} 2.5" in page()


def test_encoders_are_checked_when_loaded(tmp_path: Path) -> None:
    config = tiny_config()
    model = XKD(config)
    save_encoders(model, config, tmp_path)
    loaded = load_encoder(tmp_path / "student_audio.safetensors")
    for name, value in model.student["audio"].encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    (tmp_path / "other.safetensors").write_bytes(b"not one")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_encoder(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no encoder at"):
        load_encoder(tmp_path / "missing.safetensors")
