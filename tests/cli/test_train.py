"""`sdlora check train resume plan runs`: their output, exit codes and refusals, with a training that needs no torch."""

import errno
import json
import random
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from sdlora.jobs.lock import hold
from sdlora.jobs.run import list_runs, start_run, view
from sdlora.jobs.table import Table
from sdlora.storage import home
from tests.jobs import fake_run

ROOT = Path(__file__).parents[2]


def refuse_files_in(folder, monkeypatch):
    """Like a network share that calls itself writable, as a read-only folder also does for root."""
    touch = Path.touch

    def refusing(path, *how, **more):
        if path.parent == folder:
            raise PermissionError(errno.EACCES, "Permission denied")
        touch(path, *how, **more)
    monkeypatch.setattr(Path, "touch", refusing)


def test_json_is_one_event_a_line_and_ends_with_done(sdlora, pictures, tmp_path):
    out = tmp_path / "new" / "glass.safetensors"
    code, told, said = sdlora("train", pictures, "--base", "mini", "--preset", "quick", "--name", "Stained glass",
                              "--trigger", "stglass", "--out", out, "--set", "steps=20", "--set", "rank=8", "--seed", 5,
                              "--device", "cpu", "--json")
    lines = [json.loads(line) for line in told.splitlines()]
    assert code == 0 and said == ""
    assert all("event" in line and "step" in line for line in lines)
    run = list_runs()[0]
    assert lines[0] == {"event": "started", "step": 0, "steps": 20, "run": run.id, "folder": str(run.folder)}
    assert lines[-1] == {"event": "done", "run": run.id, "file": str(out), "step": 20, "steps": 20, "seconds": 1.0}
    assert out.read_text() == "20 210"
    assert (run.config.name, run.config.trigger, run.config.rank, run.config.seed, run.config.device, run.config.preset) == (
        "Stained glass", "stglass", 8, 5, "cpu", "quick")
    assert run.images == str(pictures) and run.config.save_every == 3


MISTAKES = [
    (["train", "nowhere"], "nowhere"),
    (["train", "PICTURES", "--set", "stepz=4"], "Did you mean steps?"),
    (["train", "PICTURES", "--set", "steps=0"], "steps must be"),
    (["train", "PICTURES", "--set", "rank=many"], "whole number"),
    (["train", "PICTURES", "--set", "base=x"], "--base x"),
    (["train", "PICTURES", "--preset", "fast"], "quick, normal, thorough"),
    (["train", "PICTURES", "--base", "nobase"], "nobase"),
    (["train", "PICTURES", "--device", "tpu"], "device"),
    (["train", "PICTURES", "--out", "x.ckpt"], "x.safetensors"),
    (["train", "PICTURES", "--out", "FOREIGN"], "not made by sdlora"),
    (["train", "PICTURES", "--out", "UNDER_A_FILE"], "Choose another place"),
    (["train", "PICTURES", "--out", "READ_ONLY"], "Choose another place"),
    (["train", "PICTURES", "--name", ""], "name"),
    (["plan", "nowhere"], "nowhere"),
    (["resume", "nothing"], "There is no run"),
]


@pytest.mark.parametrize(("arguments", "told"), MISTAKES, ids=[" ".join(words[2:] or words) for words, _ in MISTAKES])
def test_mistakes_are_one_sentence_and_a_hint_before_anything_heavy_is_loaded(sdlora, pictures, tmp_path, monkeypatch,
                                                                              arguments, told):
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"somebody else's")
    read_only = tmp_path / "read only"
    read_only.mkdir()
    refuse_files_in(read_only, monkeypatch)
    here = {"PICTURES": str(pictures), "FOREIGN": str(foreign), "UNDER_A_FILE": str(foreign / "x.safetensors"),
            "READ_ONLY": str(read_only / "x.safetensors")}
    loaded = "torch" in sys.modules
    code, out, err = sdlora(*[here.get(word, word) for word in arguments])
    assert code == 2 and out == "" and told in err
    assert 1 <= len(err.strip().splitlines()) <= 2 and "Traceback" not in err
    assert list_runs() == [] and foreign.read_bytes() == b"somebody else's"
    assert loaded or "torch" not in sys.modules


def test_a_file_of_ours_is_replaced_only_at_the_end(sdlora, pictures, tmp_path, monkeypatch):
    out = tmp_path / "mine.safetensors"
    save_file({"lora_unet_x.alpha": np.ones(1, "float16")}, out, {"sdlora_version": "0.1"})
    old = out.read_bytes()
    before = fake_run.run_training

    def failing(folder, *, control):
        for event in before(folder, control=control):
            yield event
            assert out.read_bytes() == old or event.step == 20
    monkeypatch.setattr(sys.modules["sdlora.train.session"], "run_training", failing)
    assert sdlora("train", pictures, "--out", out, "--set", "steps=20", "--json")[0] == 0
    assert out.read_text() == "20 210"


def test_plan_says_what_a_run_would_take(sdlora, pictures):
    code, told, _ = sdlora("plan", pictures, "--preset", "quick", "--json")
    plan = json.loads(told)
    assert code == 0 and plan["pictures"] == 4 and plan["skipped"] == 1 and plan["steps"] == plan["config"]["steps"] == 200
    assert plan["minutes"] > 0 and plan["memory_mb"] > 100 and plan["disk_mb"] > 0 and plan["samples"][0] == 0
    code, told, _ = sdlora("plan", pictures, "--preset", "quick")
    assert code == 0 and "4 pictures (1 skipped), 200 steps on mini" in told and "minutes" in told
    assert list_runs() == []


def test_plan_says_what_mini_cannot_carry_or_read(sdlora, tmp_path):
    for number in range(2):
        noise = random.Random(number).randbytes(128 * 128 * 3)
        Image.frombytes("RGB", (128, 128), noise).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("herons over a fjord")
    _, told, _ = sdlora("plan", tmp_path, "--preset", "quick", "--json")
    notes = " ".join(json.loads(told)["notes"])
    assert "does not know most words" in notes and "of the fine lines and textures of these pictures" in notes


def test_a_stopped_run_is_listed_and_resumed_into_the_file_that_out_named(sdlora, pictures, tmp_path, monkeypatch):
    out = tmp_path / "glass.safetensors"

    def stopping(folder, *, control):
        asked = iter([None] * 7 + ["pause"])
        yield from fake_run.run_training(folder, control=lambda: next(asked) or control())

    monkeypatch.setattr(sys.modules["sdlora.train.session"], "run_training", stopping)
    code, told, said = sdlora("train", pictures, "--set", "steps=20", "--out", out, "--json")
    run = list_runs()[0].id
    assert code == 3 and json.loads(told.splitlines()[-1]) == {"event": "stopped", "step": 7, "steps": 20}
    assert f"sdlora resume {run}" in said and not out.exists()
    listed = json.loads(sdlora("runs", "--json")[1])
    assert [(r["id"], r["state"], r["step"], r["steps"]) for r in listed] == [(run, "stopped", 7, 20)]
    monkeypatch.setattr(sys.modules["sdlora.train.session"], "run_training", fake_run.run_training)
    code, told, _ = sdlora("resume", run[:-3], "--json")
    assert code == 0 and json.loads(told.splitlines()[-1])["file"] == str(out) and out.read_text() == "20 210"
    assert "done" in sdlora("runs")[1]
    code, _, said = sdlora("resume", run)
    assert code == 2 and "finished" in said


def test_resume_takes_over_what_waits_and_refuses_what_runs(sdlora, pictures, tmp_path):
    from sdlora.config import TrainConfig

    run = start_run(TrainConfig(name="waits", steps=10), pictures, idempotency_key="x")
    with hold(view(run).folder / "lock"):
        code, _, said = sdlora("resume", run)
    assert code == 2 and "running already" in said
    assert sdlora("resume", run)[0] == 0 and view(run).state == "done"
    assert Table().claim("train") is None


def test_a_failed_run_tells_why_on_stderr(sdlora, pictures, monkeypatch):
    def failing(folder, *, control):
        yield from ()
        raise ZeroDivisionError("hidden")

    monkeypatch.setattr(sys.modules["sdlora.train.session"], "run_training", failing)
    code, told, said = sdlora("train", pictures, "--set", "steps=20", "--json")
    assert code == 1 and "code" in said and "hidden" not in told + said and json.loads(told.splitlines()[-1])["event"] == "failed"
    assert "ZeroDivisionError: hidden" in (list_runs()[0].folder / "run.log").read_text()


def test_no_runs_and_a_full_disk(sdlora, pictures, monkeypatch):
    assert sdlora("runs", "--json")[1].strip() == "[]"
    assert "no runs yet" in sdlora("runs")[1]
    monkeypatch.setattr("sdlora.train.plan.disk_usage", lambda path: types.SimpleNamespace(free=10 * 2**20))
    code, _, said = sdlora("train", pictures)
    assert code == 2 and "10 MB left" in said and list_runs() == []


def test_a_bug_is_a_code_with_its_traceback_in_the_log(sdlora, monkeypatch):
    monkeypatch.setattr("sdlora.jobs.run.list_runs", lambda: 1 / 0)
    code, out, err = sdlora("runs")
    assert code == 1 and out == "" and "Something went wrong in sdlora (code" in err and "Traceback" not in err
    assert "ZeroDivisionError" in (home() / "logs" / "sdlora.log").read_text()


def test_worker_ends_by_itself(sdlora, monkeypatch):
    monkeypatch.setattr("sdlora.jobs.worker.start_drawer", lambda folder: types.SimpleNamespace(poll=lambda: 0))
    assert sdlora("worker", "--linger", "0.1")[0] == 0


@pytest.fixture
def numbered(tmp_path):
    made = tmp_path / "10_pictures" / ".."
    (tmp_path / "10_pictures").mkdir()
    for number, size in enumerate(((64, 64), (128, 64))):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "10_pictures" / f"haus am see {number}.png")
    (tmp_path / "10_pictures" / "bad.jpg").write_bytes(b"<html>")
    return made


def test_check_says_what_is_kept_skipped_and_cut(sdlora, numbered):
    code, told, _ = sdlora("check", numbered, "--trigger", "stg", "--json")
    said = json.loads(told)
    assert code == 0
    assert [(e["name"], e["caption"], e["repeats"], e["crop"], e["cut"]) for e in said["kept"]] == [
        ("10_pictures/haus am see 0.png", "stg, haus am see", 10, [0, 0, 64, 64], 0.0),
        ("10_pictures/haus am see 1.png", "stg, haus am see", 10, [32, 0, 96, 64], 0.5)]
    assert [s["name"] for s in said["skipped"]] == ["10_pictures/bad.jpg"] and "web page" in said["skipped"][0]["reason"]


def test_check_without_json_is_for_people(sdlora, numbered):
    code, told, _ = sdlora("check", numbered)
    assert code == 0 and "Kept: 2" in told and "50% cut off" in told and "web page" in told


def test_a_folder_that_is_not_there_is_one_sentence_and_a_hint(sdlora, tmp_path):
    code, told, said = sdlora("check", tmp_path / "gone")
    assert code == 2 and told == "" and "no folder or zip" in said and len(said.splitlines()) == 2


def test_check_never_loads_torch(numbered):
    code = ("import sys; sys.argv = ['sdlora', 'check', sys.argv[1]]\nfrom sdlora.cli.main import build\n"
            "build()(standalone_mode=False); sys.exit(bool({'torch', 'gradio'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code, str(numbered)], cwd=ROOT, timeout=60).returncode == 0
