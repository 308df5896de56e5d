"""Questions to the drawing process: queued, answered in order, forgotten after a day; the answers about real small files."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sdlora.base.load import load_base
from sdlora.dataset.picture_cache import SQUARES
from sdlora.errors import UserError
from sdlora.jobs import questions
from sdlora.jobs.drawer import Drawer
from sdlora.jobs.drawings import fail_waiting
from sdlora.jobs.questions import Answer, submit, view
from sdlora.jobs.table import Table
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.formats.reading import read
from sdlora.lora.formats.writing import write
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.tools import interference
from sdlora.storage import home

ROOT = Path(__file__).parents[2]


def no_base(spec: str, device: str) -> None:
    raise AssertionError("no question here needs a base")


def answer_waiting(load=no_base) -> bool:
    return questions.answer_waiting(Table(), load)


@pytest.fixture
def echo(monkeypatch):
    """A kind of question whose answer is its payload; the payloads in the order of their answers."""
    payloads = []
    monkeypatch.setitem(questions.ANSWERS, "report", lambda payload, folder, load: payloads.append(payload) or {"said": payload})
    return payloads


def test_questions_are_answered_in_the_order_they_were_asked(echo):
    first, second = submit("report", {"n": 1}), submit("report", {"n": 2})
    assert view(first).state == view(second).state == "waiting"
    assert answer_waiting() and echo == [{"n": 1}, {"n": 2}]
    seen = view(second)
    assert (seen.state, seen.kind, seen.result) == ("done", "report", {"said": {"n": 2}})
    assert not answer_waiting()


def test_a_mistake_and_a_bug_fail_one_question_only(echo, monkeypatch):
    def mistaken(payload, folder, load):
        raise UserError("It is no LoRA.", "Choose another.")

    monkeypatch.setitem(questions.ANSWERS, "save", mistaken)
    monkeypatch.setitem(questions.ANSWERS, "convert", lambda *_: {}["secret"])
    wrong, bug, fine = submit("save", {}), submit("convert", {}), submit("report", {"value": float(2)})
    answer_waiting()
    seen = view(wrong)
    assert (seen.state, seen.problem, seen.hint) == ("failed", "It is no LoRA.", "Choose another.")
    assert "code" in view(bug).problem and "secret" not in view(bug).problem
    assert "secret" in (home() / "logs" / "drawer.log").read_text()
    assert view(fine).state == "done"


def test_what_json_cannot_hold_becomes_null(monkeypatch):
    monkeypatch.setitem(questions.ANSWERS, "report", lambda *_: {"a": float("nan"), 3: (1, float("inf"))})
    odd = submit("report", {})
    answer_waiting()
    assert view(odd).result == {"a": None, "3": [1, None]}


def test_a_question_that_kills_the_process_is_tried_once_more_and_then_fails(monkeypatch):
    class Died(BaseException):
        pass

    def dies(*_):
        raise Died

    monkeypatch.setitem(questions.ANSWERS, "report", dies)
    question = submit("report", {})
    for _ in range(2):
        with pytest.raises(Died):
            answer_waiting()
        assert view(question).state == "waiting", "its process is gone; it will be tried again"
        Drawer(no_base, no_base).recover()
    answer_waiting()
    assert view(question).state == "failed" and "twice" in view(question).problem


def test_a_damaged_question_disturbs_nobody(echo):
    damaged, question = submit("report", {}), submit("report", {})
    with sqlite3.connect(Table().path) as db:
        db.execute("UPDATE jobs SET payload = '{half' WHERE target = ?", (damaged,))
    answer_waiting()
    assert view(damaged).state == "failed" and view(question).state == "done"


def test_a_view_at_the_moment_of_the_answer_finds_it(echo):
    for _ in range(20):
        question, seen = submit("report", {}), []

        def watch(question=question, seen=seen):
            while not seen or seen[-1] == "waiting":
                seen.append(view(question).state)

        thread = threading.Thread(target=watch)
        thread.start()
        answer_waiting()
        thread.join(10)
        assert seen[-1] == "done"


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "waiting", "1234567890123-abcdefgh", "1234567890123-abcdef00"])
def test_unknown_ids_are_refused(name):
    submit("report", {})
    with pytest.raises(UserError):
        view(name)


def test_a_job_of_another_kind_is_no_question():
    Table().submit("train", "run", idempotency_key="1234567890123-abcdef00")
    with pytest.raises(UserError):
        view("1234567890123-abcdef00")


def test_a_flood_is_refused_with_a_sentence(monkeypatch):
    monkeypatch.setattr(questions, "MOST_WAITING", 3)
    for kind in ("report", "save", "convert"):
        submit(kind, {})
    with pytest.raises(UserError, match="too much"):
        submit("report", {})


def test_answers_of_days_ago_are_removed_with_their_files(echo):
    old, new, waiting = submit("report", {}), submit("report", {}), submit("save", {})
    for question in (old, new):
        view(question).folder.mkdir(parents=True)
    for _ in (old, new):
        questions.answer(Table(), Table().claim("report"), no_base)
    os.utime(view(old).folder, (time.time() - 2 * 86400,) * 2)
    with sqlite3.connect(Table().path) as db:
        db.execute("UPDATE jobs SET claimed = claimed - 2 * 86400, created = created - 2 * 86400 WHERE target != ?", (new,))
    folder = view(old).folder
    questions.remove_old_answers()
    assert view(new).state == "done" and view(new).folder.is_dir() and view(waiting).state == "waiting" and not folder.exists()
    with pytest.raises(UserError):
        view(old)


def test_the_question_is_kept_as_asked():
    question = submit("convert", {"file": "a/ü.safetensors"})
    job, = Table().jobs("convert", "queued")
    assert job.target == question and json.loads(job.payload) == {"file": "a/ü.safetensors"}


def test_no_process_to_answer_fails_the_question():
    question = submit("report", {})
    fail_waiting("The drawing process does not start.", "See the log.")
    assert (view(question).state, view(question).hint) == ("failed", "See the log.")


def test_asking_needs_no_torch():
    code = "import sys, sdlora.jobs.questions; sys.exit(bool({'torch', 'diffusers', 'gradio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.fixture
def lora(tmp_path):
    """One module of mini at rank 4."""
    path = next(path for path in family_table("mini") if path.endswith("attn1.to_q"))
    name, (rows, columns) = "lora_unet_" + path.replace(".", "_"), family_table("mini")[path]
    tensors = {f"{name}.lora_up.weight": torch.randn(rows, 4), f"{name}.lora_down.weight": torch.randn(4, columns),
               f"{name}.alpha": torch.tensor(2.0)}
    about = {"ss_network_module": "networks.lora", "modelspec.thumbnail": "data:" + "x" * 999}
    save_file(tensors, tmp_path / "one.safetensors", about)
    return tmp_path / "one.safetensors"


def answer_to(kind: str, payload: dict) -> Answer:
    question = submit(kind, payload)
    answer_waiting()
    return view(question)


def test_the_report_of_a_file(lora):
    found = answer_to("report", {"id": "one", "file": str(lora)})
    assert found.state == "done", found.problem
    assert (found.result["rank"], found.result["alpha"], found.result["modules"], found.result["id"]) == (4, 2.0, 1, "one")
    assert "modelspec.thumbnail" not in found.result["metadata"]


def test_a_report_of_no_lora_is_a_sentence(tmp_path):
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    found = answer_to("report", {"id": "no", "file": str(tmp_path / "no.safetensors")})
    assert found.state == "failed" and "no.safetensors" in found.problem


def test_a_blend_becomes_one_file_that_does_the_same(lora):
    loras = [{"file": str(lora), "strength": 0.75}, {"file": str(lora), "strength": -0.5}]
    found = answer_to("save", {"base": "mini", "loras": loras, "name": "Half & half", "method": "concat", "rank": None,
                          "together": True})
    assert found.state == "done", found.problem
    assert [found.result[key] for key in ("file", "name", "energy")] == ["half-half.safetensors", "Half & half", 1]
    (path, one), (_, made) = *read(lora).adapters.items(), *read(found.folder / found.result["file"]).adapters.items()
    weight = torch.zeros(family_table("mini")[path])
    torch.testing.assert_close(delta(made, weight), delta(one, weight) * 0.25)


def test_a_blend_that_is_nothing_is_a_sentence(lora):
    nothing = [{"file": str(lora), "strength": 0}]
    found = answer_to("save", {"base": "mini", "loras": nothing, "name": "x", "method": "concat", "rank": None, "together": True})
    assert found.state == "failed" and "0" in found.problem


@pytest.mark.parametrize("way", ["kohya", "diffusers"])
def test_a_file_in_another_form_changes_weights_alike(lora, way):
    found = answer_to("convert", {"file": str(lora), "name": "One", "base": "", "way": way, "about": {}, "cover": ""})
    assert found.state == "done", found.problem
    (path, before), (_, after) = *read(lora).adapters.items(), *read(found.folder / found.result["file"]).adapters.items()
    weight = torch.zeros(family_table("mini")[path])
    torch.testing.assert_close(delta(after, weight), delta(before, weight))


def test_a_kind_that_needs_the_base_is_converted_on_it(tmp_path):
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    out, _ = family_table("mini")[path]
    blocks = torch.randn(4, out // 4, out // 4, generator=torch.Generator().manual_seed(0)) * 0.02
    adapters = {path: Adapter("oft", {"blocks": blocks}, 0.0, 0, "unet")}
    write(tmp_path / "oft.safetensors", adapters, {}, family="mini", dtype="fp32")
    payload = {"file": str(tmp_path / "oft.safetensors"), "name": "Oft", "way": "diffusers", "about": {}, "cover": ""}
    assert answer_to("convert", payload | {"base": ""}).state == "failed"
    found = answer_to("convert", payload | {"base": "mini"})
    assert found.state == "done", found.problem
    assert [each.kind for each in read(found.folder / found.result["file"]).adapters.values()] == ["lora"]


def test_what_is_given_away_says_who_made_it_and_nothing_private(tmp_path, lora):
    about = {"ss_dataset_dirs": '{"/home/ada/pictures": 3}', "ss_network_module": "networks.lora"}
    save_file(load_file(lora), tmp_path / "private.safetensors", about)
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "cover.png")
    found = answer_to("convert", {"file": str(tmp_path / "private.safetensors"), "name": "Ada's", "base": "", "way": "zip",
                             "about": {"author": "Ada", "licence": "CC0"}, "cover": str(tmp_path / "cover.png")})
    assert found.state == "done", found.problem
    with zipfile.ZipFile(found.folder / found.result["file"]) as archive:
        assert {"README.md", "images/00.png"} < set(archive.namelist())
        whole = b"".join(archive.read(name) for name in archive.namelist())
    assert b"Ada" in whole and b"CC0" in whole and b"/home/ada" not in whole


def test_a_report_names_what_is_private(tmp_path, lora):
    save_file(load_file(lora), tmp_path / "private.safetensors", {"ss_dataset_dirs": '{"/home/ada/pictures": 3}'})
    assert "ss_dataset_dirs" in answer_to("report", {"id": "x", "file": str(tmp_path / "private.safetensors")}).result["private"]


def test_how_a_blend_gets_on_is_measured_on_the_base_that_is_loaded_and_once(lora, tmp_path, monkeypatch):
    other, times, measure = tmp_path / "other.safetensors", [], interference.measure
    save_file({key: -value if "up" in key else value for key, value in load_file(lora).items()}, other)
    monkeypatch.setattr(interference, "measure", lambda *given: times.append(1) or measure(*given))
    monkeypatch.setattr(questions, "MEASURED", {})
    base, loaded = load_base("mini", "cpu"), []

    def measured(strengths: tuple[float, float], together: bool = True) -> dict:
        loras = [{"file": str(file), "strength": strength} for file, strength in zip((lora, other), strengths, strict=True)]
        question = submit("interference", {"base": "mini", "ids": ["one", "other"], "loras": loras,
                                                "together": together})
        answer_waiting(lambda spec, device: loaded.append(spec) or base)
        assert view(question).state == "done", view(question).problem
        return view(question).result

    even, twice = measured((1, 1)), measured((2, 1))
    assert even["ids"] == ["one", "other"] and even["pairs"][0]["cosine"] == pytest.approx(-1) and even["push"] < 1e-6
    path, adapter = next(iter(read(lora).adapters.items()))
    weight = base.unet.get_submodule(path).weight.detach()
    assert twice["rows"][0]["push"] == pytest.approx(float(2 * delta(adapter, weight).norm() / weight.norm()), rel=1e-4)
    assert twice["push"] == pytest.approx(twice["rows"][1]["push"], rel=1e-4)
    assert len(times) == 1 and loaded == ["mini", "mini"], "a slider moves without measuring again"
    apart, strong = measured((1, 1), together=False), measured((1, 2), together=False)
    assert apart["stretch"] == pytest.approx(1) and not apart["pairs"] and not apart["warning"], "in turn they add up to nothing"
    assert strong["stretch"] == pytest.approx(2) and strong["warning"]


def test_pictures_that_the_base_cannot_carry_are_told(tmp_path):
    Image.frombytes("RGB", (128, 128), random.Random(0).randbytes(128 * 128 * 3)).save(tmp_path / "0.png")
    asked = submit("carry", {"base": "mini", "images": str(tmp_path)})
    answer_waiting(load_base)
    assert "of the fine lines and textures" in view(asked).result["note"] and not SQUARES
