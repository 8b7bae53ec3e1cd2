"""Values that KFP's own types would change, through its local runner."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from tests.report.synthetic import write_run
from tests.tiny import tiny_config
from xkd.data.shards.preparation import prepared_folder, resolve_prepare
from xkd.evaluation.score import Score

KFP = str(Path(sys.executable).with_name("kfp"))
PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
LARGE = 2**53 + 1
"""An integer that no float equals."""


def submit(pipeline: str, *parameters: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KFP, "run", "submit", str(PIPELINES / pipeline), "--local", *parameters],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_settings_of_evaluations_arrive_as_given(prepared: Path, tmp_path: Path) -> None:
    prepared_folder(tmp_path / "embedded", resolve_prepare("toy")).symlink_to(prepared)
    write_run(tmp_path / "run", replace(tiny_config(), preset="toy"))
    settings = ["epochs=1", "warmup_epochs=0", "batch_size=20", f"patience={LARGE}", "lr_final=null"]
    chosen = ['protocols=["finetune"]', 'encoders=["random"]', f"finetune_settings={json.dumps(settings)}"]
    done = submit("xkd_evaluations.py", "run=run", "data=.", "dataset=embedded", *chosen, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    scores = [Score.read(path) for path in sorted((tmp_path / "run" / "scores").glob("*.json"))]
    assert [score.modality for score in scores] == ["audio", "video"]
    for score in scores:
        assert score.finetune["patience"] == LARGE
        assert score.finetune["lr_final"] is None


def test_a_large_seed_arrives_as_given(tmp_path: Path) -> None:
    embedded = ["data=.", "embedded_clips=20", f"embedded_seed={LARGE}"]
    done = submit("xkd_full.py", *embedded, 'prepare_settings=["dataset=ucf101"]', cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads((tmp_path / "embedded" / "dataset.json").read_text())["seed"] == LARGE
