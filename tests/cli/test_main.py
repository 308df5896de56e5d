"""The command line as a whole: instant help, every promised command and flag, a real run stopped, killed and resumed."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdlora.cli import main
from tests.library.test_lora_tags import lora
from tests.tiny import write_base, write_pictures

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
FLAGS = {
    "train": "--base --preset --name --trigger --out --set --seed --device --json", "resume": "--json",
    "plan": "--base --preset --json", "runs": "--json", "worker": "",
    "draw": "--prompts-file --base --lora --negative --size --seed --count --steps --guidance --out --json",
    "inspect": "--json", "check": "--json", "bases": "--json", "studio": "--host --port --data --password", "doctor": "--json",
    "bench": "", "bench train": "--json",
}


def sdlora(*arguments):
    return subprocess.run([sys.executable, "-m", "sdlora", *arguments], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, **ENVIRONMENT}, timeout=60)


def test_help_loads_nothing_heavy():
    code = "import sys; from sdlora.cli.main import build; build(); " \
           "print([m for m in ('torch', 'diffusers', 'transformers', 'gradio', 'numpy', 'PIL') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout.replace("'", '"')) == []


def test_help_is_instant():
    """CPU time beside that of the libraries it needs: seconds depend on the machine, wall clock on who else computes."""
    def cpu_seconds(run):
        before = os.times().children_user
        assert run().returncode == 0
        return os.times().children_user - before

    libraries = [sys.executable, "-c", "import typer, rich.console, pydantic, sqlite3, asyncio"]
    assert "train" in sdlora("--help").stdout
    ours, theirs = (min(cpu_seconds(run) for _ in range(3))
                    for run in (lambda: sdlora("--help"), lambda: subprocess.run(libraries, check=True)))
    assert ours < 5 * theirs, f"{ours:.2f} s of CPU against {theirs:.2f} s"


@pytest.mark.parametrize("command", FLAGS)
def test_promised_commands_have_their_flags(command):
    from typer.main import get_command

    from sdlora.cli.main import build

    found = get_command(build())
    for word in command.split():
        found = found.commands[word]
    there = {option for parameter in found.params for option in parameter.opts}
    assert set(FLAGS[command].split()) <= there


def test_hidden_commands_stay_hidden():
    assert not re.search(r"^\W*(run|drawer) ", sdlora("--help").stdout, re.M)


def test_usage_errors_are_the_artists():
    assert sdlora("train").returncode == 2
    assert sdlora("nonsense").returncode == 2
    assert sdlora("--version").stdout.startswith("sdlora ")


def follow(arguments, until, number):
    """Start a command, read its events until one fits, signal its whole process group; (exit code, events)."""
    process = subprocess.Popen([sys.executable, "-m", "sdlora", *arguments, "--json"], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
                               env={**os.environ, **ENVIRONMENT})
    told = []
    for line in process.stdout:
        told.append(json.loads(line))
        if number and until(told[-1]):
            os.killpg(process.pid, number)
            break
    process.stdout.close()
    return process.wait(), told


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_real_run_stopped_killed_and_resumed_ends_in_the_file_of_an_undisturbed_one(tmp_path):
    from safetensors.numpy import load_file

    base, pictures = write_base(tmp_path / "base"), write_pictures(tmp_path / "pictures", 4)
    common = ["train", str(pictures), "--base", str(base), "--preset", "quick", "--device", "cpu", "--out"]
    for pair in ("steps=20", "save_every=5", "sample_every=20", "sample_steps=2", "resolution=64", "rank=2", "batch_size=2"):
        common[-1:-1] = ["--set", pair]
    code, told = follow([*common, str(tmp_path / "whole.safetensors")], None, None)
    assert code == 0 and told[-1]["event"] == "done"

    code, told = follow([*common, str(tmp_path / "broken.safetensors")], lambda e: e["event"] == "step" and e["step"] >= 7,
                           signal.SIGINT)
    assert code == 3
    listed = json.loads(sdlora("runs", "--json").stdout)
    assert [run["state"] for run in listed] == ["stopped", "done"] and 7 <= listed[0]["step"] <= 20
    code, told = follow(["resume", listed[0]["id"]], lambda e: e["event"] == "step" and e["step"] >= 13, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert json.loads(sdlora("runs", "--json").stdout)[0]["state"] == "stopped"
    code, told = follow(["resume", listed[0]["id"]], None, None)
    assert code == 0 and told[-1]["file"] == str(tmp_path / "broken.safetensors") and told[-1]["step"] == 20
    steps = [event["step"] for event in told if event["event"] == "step"]
    assert steps == list(range(steps[0], 21)) and steps[0] > 7
    whole, broken = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys() and len(whole) > 10
    assert all((whole[name] == broken[name]).all() for name in whole), "bit for bit"


def test_json_is_json_on_a_terminal_without_its_characters(tmp_path):
    folder = tmp_path / "café 🎨"
    write_pictures(folder, 1)
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "SDLORA_HOME": str(tmp_path / "home")}
    shown = subprocess.run([sys.executable, "-m", "sdlora", "check", str(folder), "--json"], cwd=ROOT, env=environment,
                           capture_output=True, check=True).stdout.decode("latin-1")
    assert "\\ud83c" in shown and folder.name in json.dumps(json.loads(shown), ensure_ascii=False)


@pytest.mark.skipif(os.name == "nt", reason="arguments are text there")
def test_an_argument_that_is_no_text_gets_a_sentence(tmp_path):
    done = subprocess.run([sys.executable.encode(), b"-m", b"sdlora", b"check", b"caf\xe9"], capture_output=True, check=False,
                          env=os.environ | {"SDLORA_HOME": str(tmp_path)}, cwd=ROOT)
    assert done.returncode == 2 and b"caf\xef\xbf\xbd is not UTF-8" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_may_not_be_used_is_a_sentence_wherever_it_is_met(monkeypatch, capsys, tmp_path, number):
    def refuses():
        raise OSError(number, os.strerror(number), str(tmp_path / "loras" / ".lock"))

    monkeypatch.setattr(main, "build", lambda: refuses)
    monkeypatch.setattr(sys, "argv", ["sdlora"])
    with pytest.raises(SystemExit) as left:
        main.run()
    said = capsys.readouterr().err
    assert left.value.code == 2 and ".lock" in said and "went wrong" not in said and len(said.strip().split("\n")) == 2


@pytest.mark.skipif(os.name == "nt" or not shutil.which("setpriv"), reason="needs setpriv to be somebody who may not write")
@pytest.mark.parametrize("command, mode", [(("library", "add", "{lora}"), 0o555), (("library", "list"), 0o000)])
def test_a_data_folder_of_somebody_else_is_a_sentence(tmp_path, command, mode):
    folder = tmp_path / "theirs"
    (folder / "loras").mkdir(parents=True)
    (folder / "loras").chmod(mode)
    folder.chmod(mode)
    file = lora("ink", 0.1, folder=tmp_path)[0]
    capabilities = "-dac_override,-dac_read_search"
    plain = ["setpriv", "--bounding-set", capabilities, "--inh-caps", capabilities] if os.geteuid() == 0 else []
    words = [word.format(lora=file) for word in command]
    shown = subprocess.run([*plain, sys.executable, "-m", "sdlora", *words], cwd=ROOT, capture_output=True, text=True, timeout=99,
                           env={**os.environ, **ENVIRONMENT, "SDLORA_HOME": str(folder)})
    folder.chmod(0o755)
    (folder / "loras").chmod(0o755)
    assert shown.returncode == 2 and "Traceback" not in shown.stderr and "theirs" in shown.stderr, shown.stderr
    assert "SDLORA_HOME" in shown.stderr
