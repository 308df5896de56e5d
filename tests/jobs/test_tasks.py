"""What the drawing process answers, about real small files on the tiny base."""

import zipfile

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sdlora.base.load import load_base
from sdlora.jobs import desk, tasks
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.formats.reading import read, write
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.tools import geometry


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


def asked(kind: str, payload: dict) -> desk.Answer:
    question = desk.submit(kind, payload)
    tasks.answer_all(lambda *_: None)
    return desk.view(question)


def test_the_report_of_a_file(lora):
    told = asked("report", {"id": "one", "file": str(lora)})
    assert told.state == "done", told.problem
    assert (told.result["rank"], told.result["alpha"], told.result["modules"], told.result["id"]) == (4, 2.0, 1, "one")
    assert "modelspec.thumbnail" not in told.result["metadata"]


def test_a_report_of_no_lora_is_a_sentence(tmp_path):
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    told = asked("report", {"id": "no", "file": str(tmp_path / "no.safetensors")})
    assert told.state == "failed" and "no.safetensors" in told.problem


def test_a_blend_becomes_one_file_that_does_the_same(lora):
    loras = [{"file": str(lora), "strength": 0.75}, {"file": str(lora), "strength": -0.5}]
    told = asked("save", {"base": "mini", "loras": loras, "name": "Half & half", "method": "concat", "rank": None,
                          "together": True})
    assert told.state == "done", told.problem
    assert told.result["file"] == "half-half.safetensors" and told.result["name"] == "Half & half" and told.result["energy"] == 1
    (path, one), (_, made) = *read(lora).adapters.items(), *read(told.folder / told.result["file"]).adapters.items()
    weight = torch.zeros(family_table("mini")[path])
    torch.testing.assert_close(delta(made, weight), delta(one, weight) * 0.25)


def test_a_blend_that_is_nothing_is_a_sentence(lora):
    nothing = [{"file": str(lora), "strength": 0}]
    told = asked("save", {"base": "mini", "loras": nothing, "name": "x", "method": "concat", "rank": None, "together": True})
    assert told.state == "failed" and "0" in told.problem


@pytest.mark.parametrize("way", ["kohya", "diffusers"])
def test_a_file_in_another_form_changes_weights_alike(lora, way):
    told = asked("convert", {"file": str(lora), "name": "One", "base": "", "way": way, "about": {}, "cover": ""})
    assert told.state == "done", told.problem
    (path, before), (_, after) = *read(lora).adapters.items(), *read(told.folder / told.result["file"]).adapters.items()
    weight = torch.zeros(family_table("mini")[path])
    torch.testing.assert_close(delta(after, weight), delta(before, weight))


def test_a_kind_that_needs_the_base_is_converted_on_it(tmp_path):
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    out, _ = family_table("mini")[path]
    blocks = torch.randn(4, out // 4, out // 4, generator=torch.Generator().manual_seed(0)) * 0.02
    adapters = {path: Adapter("oft", {"blocks": blocks}, 0.0, 0, "unet")}
    write(tmp_path / "oft.safetensors", adapters, {}, family="mini", dtype="fp32")
    payload = {"file": str(tmp_path / "oft.safetensors"), "name": "Oft", "way": "diffusers", "about": {}, "cover": ""}
    assert asked("convert", payload | {"base": ""}).state == "failed"
    told = asked("convert", payload | {"base": "mini"})
    assert told.state == "done", told.problem
    assert [each.kind for each in read(told.folder / told.result["file"]).adapters.values()] == ["lora"]


def test_what_is_given_away_says_who_made_it_and_nothing_private(tmp_path, lora):
    about = {"ss_dataset_dirs": '{"/home/ada/pictures": 3}', "ss_network_module": "networks.lora"}
    save_file(load_file(lora), tmp_path / "private.safetensors", about)
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "cover.png")
    told = asked("convert", {"file": str(tmp_path / "private.safetensors"), "name": "Ada's", "base": "", "way": "zip",
                             "about": {"author": "Ada", "licence": "CC0"}, "cover": str(tmp_path / "cover.png")})
    assert told.state == "done", told.problem
    with zipfile.ZipFile(told.folder / told.result["file"]) as archive:
        assert {"README.md", "images/00.png"} < set(archive.namelist())
        whole = b"".join(archive.read(name) for name in archive.namelist())
    assert b"Ada" in whole and b"CC0" in whole and b"/home/ada" not in whole


def test_a_report_names_what_is_private(tmp_path, lora):
    save_file(load_file(lora), tmp_path / "private.safetensors", {"ss_dataset_dirs": '{"/home/ada/pictures": 3}'})
    assert "ss_dataset_dirs" in asked("report", {"id": "x", "file": str(tmp_path / "private.safetensors")}).result["private"]


def test_how_a_blend_gets_on_is_measured_on_the_base_that_is_loaded_and_once(lora, tmp_path, monkeypatch):
    other, times, measure = tmp_path / "other.safetensors", [], geometry.measure
    save_file({key: -value if "up" in key else value for key, value in load_file(lora).items()}, other)
    monkeypatch.setattr(geometry, "measure", lambda *given: times.append(1) or measure(*given))
    monkeypatch.setattr(tasks, "MEASURED", {})
    base, asked_for = load_base("mini", "cpu"), []

    def told(strengths: tuple[float, float], together: bool = True) -> dict:
        loras = [{"file": str(file), "strength": strength} for file, strength in zip((lora, other), strengths, strict=True)]
        question = desk.submit("interference", {"base": "mini", "ids": ["one", "other"], "loras": loras,
                                                "together": together})
        tasks.answer_all(lambda spec, device: asked_for.append(spec) or base)
        assert desk.view(question).state == "done", desk.view(question).problem
        return desk.view(question).result

    even, twice = told((1, 1)), told((2, 1))
    assert even["ids"] == ["one", "other"] and even["pairs"][0]["cosine"] == pytest.approx(-1) and even["push"] < 1e-6
    path, adapter = next(iter(read(lora).adapters.items()))
    weight = base.unet.get_submodule(path).weight.detach()
    assert twice["rows"][0]["push"] == pytest.approx(float(2 * delta(adapter, weight).norm() / weight.norm()), rel=1e-4)
    assert twice["push"] == pytest.approx(twice["rows"][1]["push"], rel=1e-4)
    assert len(times) == 1 and asked_for == ["mini", "mini"], "a slider moves without measuring again"
    apart, burnt = told((1, 1), together=False), told((1, 2), together=False)
    assert apart["stretch"] == pytest.approx(1) and not apart["pairs"] and not apart["warning"], "in turn they add up to nothing"
    assert burnt["stretch"] == pytest.approx(2) and burnt["warning"]
