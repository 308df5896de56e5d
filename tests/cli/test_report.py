"""What the commands share: when a base is needed, and how a report is printed."""

import json

import pytest

from sdlora.base import catalog
from sdlora.cli import report
from sdlora.errors import UserError
from sdlora.lora.formats import reading, writing
from tests.lora.formats.test_writing import SQUARE, adapter


def test_a_base_is_used_where_it_is_needed(run, tmp_path):
    path = writing.write(tmp_path / "d.safetensors", {SQUARE: adapter("oft", SQUARE)}, {}, dtype="fp32", family="mini")
    with pytest.raises(UserError, match="--base"):
        run("convert", path, "--to", "diffusers", "--out", tmp_path / "e.safetensors")
    words = ("convert", path, "--to", "diffusers", "--base", "mini", "--rank", 8, "--out", tmp_path / "e.safetensors")
    told = json.loads(run(*words, "--json").stdout)
    ours = writing.rewrite(path, path, {"sdlora_base_identity": catalog.identity(catalog.resolve("mini"))})
    again = json.loads(run("convert", ours, "--plain", "--rank", 8, "--out", tmp_path / "e.safetensors", "--json").stdout)
    assert again["approximated"] == told["approximated"]       # a LoRA of this very mini needs no --base
    assert 0.1 < told["approximated"][SQUARE] < 1 and reading.read(tmp_path / "e.safetensors").adapters[SQUARE].rank == 8


def test_a_report_is_lines_or_one_json_object(capsys):
    for as_json in (False, True):
        report.print_report({"name": "café"}, ["one", "two"], as_json)
    assert capsys.readouterr().out == 'one\ntwo\n{"name": "café"}\n'


def test_what_was_written_and_what_was_lost_are_lines():
    told = {"out": "a.safetensors", "modules": 4, "ranks": [4, 8], "bytes_out": 2_500_000, "lost": 0.0, "energy": 0.99,
            "blocks": {"IN01": 0.5}}
    assert report.size_line(told) == "a.safetensors: 4 modules, rank 4 to 8, 2.50 MB"
    assert report.size_line(told | {"ranks": [4, 4]}) == "a.safetensors: 4 modules, rank 4, 2.50 MB"
    assert report.energy_lines(told) == ["  retained energy 99.00% (error 0.100)", "  IN01     50.00%"]
    assert report.lost_lines(told, "fp16") == []
    assert report.lost_lines(told | {"lost": 0.02}, "fp16") == ["  fp16 loses 0.02 of the change"]
