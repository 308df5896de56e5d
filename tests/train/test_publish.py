"""A file is called done only when it was shown to change the picture."""

from types import SimpleNamespace

import pytest
import torch

from sdlora.base.load import load_base
from sdlora.config import TrainConfig
from sdlora.errors import UserError
from sdlora.storage import home
from sdlora.train.cache import Items
from sdlora.train.layers import attach
from sdlora.train.publish import Facts, publish, shelf_path
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def made(folder, tmp_path):
    """publish() as far as it needs only adapters of a given size: scale 0 is a LoRA that was never trained."""
    base = load_base(str(folder), "cpu")
    items = Items(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), base.encode_text(["a house", ""]), [0], [1], 64)

    def go(scale, **settings):
        attached = attach(base.unet, 2, 2, 0)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            attached.parameters[0].add_(torch.randn(attached.parameters[0].shape, generator=generator) * scale)
        adapters = attached.adapters()
        attached.detach()
        facts = Facts(TrainConfig(name="Tiny", rank=2, **settings), base, (), 5, 0.1, "run", "2026-01-01T00:00:00+0000")
        return publish(tmp_path / "run", None, adapters, facts, items)
    return SimpleNamespace(go=go, base=base, items=items)


def test_a_file_that_changes_nothing_fails(made):
    with pytest.raises(UserError, match="changes nothing"):
        made.go(0)
    assert not list((home() / "loras").glob("*"))


def test_a_tiny_change_warns_and_a_real_one_does_not(made):
    path, warnings = made.go(0.0003)
    assert path.exists() and "very little" in warnings[0]
    assert made.go(0.1)[1] == []


def test_an_over_strong_style_warns(made):
    assert "overrules the base" in made.go(0.5)[1][0]


def test_numbers_that_do_not_fit_the_format_are_refused(made):
    with pytest.raises(UserError, match="does not fit the number format fp16"):
        made.go(1e5)


def test_a_prediction_that_is_no_number_is_refused(made):
    with pytest.raises(UserError, match="NaN or infinite"):
        made.go(1e18, file_dtype="fp32")


def test_the_base_is_left_as_it_was(made):
    before = {name: weight.clone() for name, weight in made.base.unet.state_dict().items()}
    made.go(0.1)
    assert all(torch.equal(weight, before[name]) for name, weight in made.base.unet.state_dict().items())


def test_the_same_file_keeps_its_name(tmp_path):
    result = tmp_path / "x.safetensors"
    result.write_bytes(b"one")
    (home() / "loras").mkdir(parents=True)
    (home() / "loras" / "x.safetensors").write_bytes(b"another")
    assert shelf_path("x", result).name == "x-2.safetensors"
    (home() / "loras" / "x-2.safetensors").write_bytes(b"one")
    assert shelf_path("x", result).name == "x-2.safetensors"
