"""The measurement of strangers' sets, with a trainer and a base that are told what to answer."""

import json

import torch
import typer
from typer.testing import CliRunner

from sdlora.bench import paintings
from sdlora.bench.paintings import PaintingResult, share_of, write_set
from sdlora.cli import bench
from sdlora.dataset.folder import read_dataset
from sdlora.mini.classifier import Classifier
from sdlora.mini.paintings import PAINTINGS
from sdlora.mini.scenes import OBJECTS


def test_a_set_is_written_as_an_artist_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(paintings, "TRAINED", 2)
    found = read_dataset(write_set(PAINTINGS[2], tmp_path / "set"), trigger="qiv")
    assert [example.caption.startswith("qiv ") for example in found.examples] == [True, True] and not found.skipped


def test_the_share_is_of_what_the_judge_sees():
    judge = Classifier().eval()
    bias = judge.heads["object"].bias
    torch.nn.init.zeros_(judge.heads["object"].weight)
    torch.nn.init.zeros_(bias)
    with torch.no_grad():
        bias[OBJECTS.index("boat")] = 1.0
    pictures = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    assert share_of(judge, pictures, "boat") == 1 and share_of(judge, pictures, "cup") == 0


def test_results_are_printed_with_the_verdict(monkeypatch, tmp_path):
    result = PaintingResult("brush", 61.2, None, 0.8, 0.75, 70.0, ("The style arrived.",))
    monkeypatch.setattr(paintings, "measure", lambda *_: [result])
    monkeypatch.setattr("sdlora.base.load.load_base", lambda *_: None)
    app = typer.Typer()
    bench.register(app)
    lines = CliRunner().invoke(app, ["bench", "paintings", "--out", str(tmp_path)]).stdout.splitlines()
    assert lines == ["brush: fine 61, coarse –, content 0.80, boats 75%, 70 s", "  The style arrived."]
    told = json.loads(CliRunner().invoke(app, ["bench", "paintings", "--json", "--out", str(tmp_path)]).stdout)
    assert told["style_fine"] == 61.2 and told["verdict"] == ["The style arrived."]
