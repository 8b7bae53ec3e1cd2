"""The ``xkd`` command: help, precedence of settings, one-line errors and exit codes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from xkd.cli import app, main
from xkd.config.overrides import to_yaml
from xkd.config.presets import PRESETS, get_preset

COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]


class Output:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, error: str) -> None:
        self.code, self.out, self.error = code, out, error


def xkd(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> Output:
    """Run a command line in this process."""
    monkeypatch.setattr(sys, "argv", ["xkd", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    return Output(int(caught.value.code or 0), *capsys.readouterr())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda *words: xkd(capsys, monkeypatch, *words)


def test_the_help_lists_every_command_with_a_whole_sentence(run: Any) -> None:
    output = run("--help")
    assert output.code == 0
    lines = output.out.partition("Commands:")[2].splitlines()
    shown = {line.split()[0]: line for line in lines if line.strip()}
    assert list(shown) == list(COMMANDS)
    for line in shown.values():
        assert line.endswith("."), line
        assert "..." not in line, line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_each_of_its_options(name: str, run: Any) -> None:
    output = run(name, "--help")
    assert output.code == 0
    assert output.out.startswith(f"Usage: xkd {name} ")
    for parameter in COMMANDS[name].params:
        assert parameter.help, parameter.name
        assert parameter.help.endswith("."), parameter.help


@pytest.mark.parametrize("words", [["--help"], ["pretrain", "--help"]])
def test_help_is_quick_and_imports_no_heavy_package(words: list[str]) -> None:
    code = (
        "import sys, xkd.cli\n"
        f"sys.argv = ['xkd', *{words}]\n"
        "try: xkd.cli.main()\n"
        "finally: print(sorted({'kfp', 'numpy', 'torch'} & sys.modules.keys()), file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr.strip() == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.system
def test_listing_evaluations_and_tabulating_do_not_wait_for_scikit_learn() -> None:
    imports = "import sys, xkd.report.tabulate, xkd.evaluation.plan"
    code = f"{imports}; print({{'sklearn', 'scipy'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_help_says_what_the_program_is_for(run: Any) -> None:
    assert "Pretrain a video and an audio encoder on unlabeled videos" in run("--help").out


def test_the_version_is_shown(run: Any) -> None:
    output = run("--version")
    assert (output.code, output.out) == (0, f"xkd {version('xkd')}\n")


def test_the_shell_completes_names(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    monkeypatch.setenv("_XKD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "xkd pre")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert run().out.split() == ["prepare", "pretrain", "presets"]


def test_without_a_command_the_help_is_shown(run: Any) -> None:
    output = run()
    assert output.code == 2
    assert "Commands:" in output.out + output.error


def test_the_settings_of_a_run_come_from_preset_file_and_set_in_that_order(tmp_path: Path, run: Any) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {lr: 2e-4, epochs: 60}\n")
    output = run("config", "--preset", "toy", "--config", file, "--set", "optim.epochs=70")
    shown = yaml.safe_load(output.out)
    toy = get_preset("toy")
    assert shown["optim"]["epochs"] == 70
    assert float(shown["optim"]["lr"]) == 2e-4
    assert shown["optim"]["batch_size"] == toy.optim.batch_size
    assert shown["preset"] == "toy"


def test_the_preset_is_the_given_one_else_the_files_else_paper(tmp_path: Path, run: Any) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("pretrain:\n  preset: toy\n  run: {seed: 3}\n")

    def preset_and_dim(*words: object) -> tuple[str, int, int]:
        shown = yaml.safe_load(run("config", *words).out)
        return shown["preset"], shown["encoder"]["dim"], shown["run"]["seed"]

    section = f"{file}:pretrain"
    assert preset_and_dim("--config", section) == ("toy", 64, 3)
    assert preset_and_dim("--config", section, "--preset", "vit_small") == ("vit_small", 384, 3)
    assert preset_and_dim() == ("paper", 768, 0)


def test_the_resolved_settings_of_a_run_resolve_to_themselves(tmp_path: Path, run: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(get_preset("released_mas")))
    assert run("config", "--config", file).out == file.read_text()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["embed", "--modality", "video"], "no option --modality; see xkd embed --help"),
        (
            ["fetch", "x", "--clip", "3"],
            "no option --clip (did you mean --clips?); see xkd fetch --help",
        ),
        (["fetch", "embedded", "--out"], "option '--out' requires an argument; see xkd fetch --help"),
        (["fetch", "embedded"], "missing option '--out'; see xkd fetch --help"),
        (["prepare"], "missing argument 'source'; see xkd prepare --help"),
        (["prepare", "mine"], "prepare needs --out, or --dry-run"),
        (
            ["fetch", "a", "--out", "b", "--clips", "x"],
            "invalid value for '--clips': must be an integer; see xkd fetch --help",
        ),
        (["preprare"], "no such command 'preprare'"),
        (["--versio"], "no option --versio (did you mean --version?); see xkd --help"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(run: Any, words: list[str], error: str) -> None:
    output = run(*words)
    assert (output.code, output.out) == (2, "")
    assert output.error.startswith(f"xkd: {error}")
    assert output.error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--preset", "toi"], "unknown preset 'toi' (did you mean toy?); see xkd presets"),
        (["--set", "optim.lrr=1"], "optim.lrr=1: unknown setting optim.lrr (did you mean optim.lr?)"),
        (["--set", "lr=1"], "lr=1: unknown setting lr (did you mean optim.lr?)"),
        (["--set", "dim=1"], "dim=1: unknown setting dim (did you mean encoder.dim, decoder.dim?)"),
        (
            ["--set", "learning_rate=1"],
            "learning_rate=1: unknown setting learning_rate (did you mean optim.lr, optim.lr_final?)",
        ),
        (
            ["--set", "optim.learning_rate=1"],
            "optim.learning_rate=1: unknown setting optim.learning_rate (did you mean optim.lr, optim.lr_",
        ),
        (["--set", "encoder.lr=1"], "encoder.lr=1: unknown setting encoder.lr (did you mean optim.lr?)"),
        (["--set", "optm.lr=1"], "optm.lr=1: unknown setting optm (did you mean optim?)"),
        (["--set", "optim.lr"], "optim.lr: write a setting as name=value, for example optim.lr=1e-4"),
        (
            ["--set", "optim.lr=fast"],
            "configuration: optim.lr: must be a number, got 'fast'",
        ),
        (["--set", "preset=toy"], "preset=toy: settings cannot change the preset; use --preset"),
        (["--config", "nowhere.yaml"], "cannot read configuration nowhere.yaml: No such file or directory"),
        (["--config", "mine.yaml:train"], "mine.yaml has no section 'train'"),
        (["--config", "mine.yaml"], "unknown preset 'tiny' (did you mean vit_tiny?); see xkd presets"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any, words: list[str], error: str
) -> None:
    (tmp_path / "mine.yaml").write_text("preset: tiny\n")
    monkeypatch.chdir(tmp_path)
    output = run("config", *words)
    assert (output.code, output.out) == (2, "")
    assert output.error.startswith(f"xkd: {error}")
    assert output.error.count("\n") == 1


def test_presets_are_listed_with_the_papers_results(run: Any) -> None:
    head, _, *lines = run("presets").out.splitlines()
    assert "top-1 accuracies in %" in head
    assert [line.split()[0] for line in lines[1:]] == list(PRESETS)
    assert lines[1].split()[:7] == ["paper", "Tables", "S4,", "S15", "59.3", "84.7", "91.0"]
    column = lines[0].index("description")
    assert {line[column - 1] for line in lines} == {" "}
    assert " " not in {line[column] for line in lines}
    prepared = {line.split()[0] for line in lines if line.endswith("Prepared with short_side=64 max_fps=8.")}
    assert {"toy", "embedded", "lab_without_norms"} <= prepared
    assert "paper" not in prepared


def test_prepare_knows_the_presets(run: Any, tmp_path: Path) -> None:
    output = run("prepare", tmp_path, "--preset", "tooy", "--dry-run")
    assert (output.code, output.error) == (
        2,
        "xkd: unknown preset 'tooy' (did you mean toy?); see xkd presets\n",
    )


def test_settings_are_explained_with_the_values_of_the_preset(run: Any) -> None:
    lines = run("config", "--describe", "--preset", "toy").out.splitlines()
    place = lines.index("  encoder.dim = 64  (integer > 0)")
    assert lines[place + 1].strip() == "Width of the tokens."


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "modality",
            "[video]",
            "unknown modality '[video]' (did you mean video?); known: video, audio",
        ),
        (
            "protocol",
            "svn",
            "unknown protocol 'svn' (did you mean svm?); known: svm, fusion",
        ),
        ("protocol", "fusion", "embedded has no evaluation by fusion of video; available: svm of video"),
    ],
)
def test_options_of_evaluate_are_values_not_text(
    tmp_path: Path, run: Any, prepared: Path, name: str, value: str, said: str
) -> None:
    paths = ["--run", tmp_path, "--data", prepared, "--out", tmp_path]
    given = {"modality": "video", "protocol": "svm", "encoder": "teacher"} | {name: value}
    output = run("evaluate", *paths, *(word for key, text in given.items() for word in (f"--{key}", text)))
    assert output.code == 2
    assert said in output.error


def test_set_overrides_an_option_and_an_option_the_file(tmp_path: Path, run: Any) -> None:
    (tmp_path / "settings.yaml").write_text("dataset: ucf101\n")
    source, paths = tmp_path / "source", ["--out", tmp_path / "out", "--config", tmp_path / "settings.yaml"]
    source.mkdir()
    (source / "notes.txt").write_text("no dataset")
    errors = [
        run("prepare", source, *paths, *words).error
        for words in ([], ["--dataset", "esc50"], ["--dataset", "esc50", "--set", "dataset=hmdb51"])
    ]
    for error, layout in zip(errors, ("ucf101", "esc50", "hmdb51"), strict=True):
        assert layout in error.lower() or error.count("\n") == 1
    assert len(set(errors)) == 3


def test_an_environment_variable_sets_nothing_but_the_pushgateway() -> None:
    variables = {
        (name, parameter.name): parameter.envvar
        for name, command in COMMANDS.items()
        for parameter in command.params
        if parameter.envvar
    }
    assert variables == {("tabulate", "pushgateway"): "XKD_PUSHGATEWAY"}


@pytest.mark.parametrize(
    ("code", "words", "error"),
    [
        ("xkd.cli", ["launch", "--cancel", "job"], "xkd: xkd launch needs kubernetes: pip install"),
        (
            "xkd.cli",
            ["fetch", "esc50", "--repo", ".", "--out", "o"],
            "xkd: fetching from a registry needs dvc",
        ),
        ("xkd.launch.kfp_cli", ["run", "submit", "pipeline.py"], "error: kfp needs kfp: pip install"),
        ("xkd.launch.kfp_cli", ["--help"], "error: kfp needs kfp: pip install"),
    ],
)
@pytest.mark.system
def test_a_base_installation_names_the_extra_in_one_line(
    code: str, words: list[str], error: str, tmp_path: Path
) -> None:
    """Without the packages of the extra, which its processes cannot find."""
    hook = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('dvc', 'kfp', 'kfp_server_api', 'kubernetes'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    (tmp_path / "sitecustomize.py").write_text(hook)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", f"from {code} import main; main()", *words],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(error)
    assert done.stderr.endswith("pip install 'xkd[workflow]'\n")
    assert done.stderr.count("\n") == 1


def test_the_installed_script_is_this_command() -> None:
    script = Path(sys.executable).with_name("xkd")
    done = subprocess.run([script, "watch"], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert "missing argument" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hosts", "2"], "--rendezvous must be HOST:PORT of the first host, not ''"),
        (["--hosts", "2", "--rendezvous", "first"], "--rendezvous must be HOST:PORT of the first host"),
        (["--hosts", "2", "--host", "2", "--rendezvous", "first:1"], "--host must be 0 to 1 for --hosts 2"),
        (["--host", "1", "--rendezvous", "first:1"], "--host must be 0 to 0 for --hosts 1, not 1"),
    ],
)
def test_mistakes_about_hosts_are_one_line(
    options: list[str], message: str, run: Any, tmp_path: Path
) -> None:
    output = run("pretrain", "--data", str(tmp_path), "--out", str(tmp_path / "run"), *options)
    assert output.code == 2
    assert message in output.error
    assert output.error.count("\n") == 1
