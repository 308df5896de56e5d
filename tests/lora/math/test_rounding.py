"""Small values survive fp16 where they can, what is lost is measured, and a file that would lose most of it is not written."""

from dataclasses import replace

import pytest
import torch

from sdlora.errors import UserError
from sdlora.lora.formats import reading
from sdlora.lora.formats.writing import write
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.math.rounding import balanced, lost
from tests.lora.formats.test_reading import PATHS, style, verified


def scaled(up, down, kind="lora"):
    """The adapters of `style` with factors of other sizes."""
    return {path: replace(adapter, tensors={"up": adapter.tensors["up"] * up, "down": adapter.tensors["down"] * down})
            for path, adapter in style().items()}


def off(meant, path):
    """|dW - dW of the file| / |dW|, by the dense product."""
    again, worst = reading.read(path).adapters, 0.0
    for module, adapter in meant.items():
        weight = torch.zeros(adapter.tensors["up"].shape[0], adapter.tensors["down"].shape[1])
        wanted = delta(adapter, weight).double()
        worst = max(worst, float((delta(again[module], weight).double() - wanted).norm() / wanted.norm()))
    return worst


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
@pytest.mark.parametrize(("up", "down"), [(1.0, 1e-7), (1e-9, 100.0), (3e5, 1e-3), (1e-5, 1.0)])
def test_factors_out_of_range_are_balanced_and_nothing_is_lost(tmp_path, up, down, dialect):
    meant = scaled(up, down)
    path = write(tmp_path / "a.safetensors", meant, {}, dialect=dialect, family="mini")
    assert off(meant, path) < 1e-3
    verified(path, meant)


def test_factors_in_range_stay_as_they_are():
    adapter = style()[PATHS[0]]
    assert balanced(adapter, torch.float16) is adapter
    assert balanced(adapter, None) is adapter


def test_what_is_lost_is_measured(tmp_path):
    meant = scaled(1e-7, 1e-1)
    share = lost(meant, torch.float16)
    path = write(tmp_path / "a.safetensors", meant, {}, family="mini")
    assert share == pytest.approx(off(meant, path), rel=0.5) and 0 < share < 0.5
    assert lost(meant, torch.float32) == 0.0 and lost(meant, torch.bfloat16) < 0.01


def test_a_file_that_would_lose_nearly_all_is_not_written(tmp_path):
    meant = scaled(1e-8, 1e-8)
    with pytest.raises(UserError, match="fp16 would lose"):
        write(tmp_path / "a.safetensors", meant, {}, family="mini")
    assert not list(tmp_path.iterdir())
    assert off(meant, write(tmp_path / "a.safetensors", meant, {}, dtype="bf16", family="mini")) < 0.02


def test_the_halves_of_a_loha_are_balanced_too():
    tensors = {f"w{half}_{side}": torch.rand(shape) * size for half in "12"
               for side, shape, size in (("a", (8, 2), 1e-8), ("b", (2, 8), 1.0))}
    adapter = Adapter("loha", tensors, 2.0, 2, "unet")
    made = balanced(adapter, torch.float16)
    rounded = replace(made, tensors={role: value.half().float() for role, value in made.tensors.items()})
    wanted = delta(adapter, torch.zeros(8, 8)).double()
    assert float((delta(rounded, torch.zeros(8, 8)).double() - wanted).norm() / wanted.norm()) < 2e-3


def test_each_rank_is_moved_by_its_own_power_of_two():
    """A blend of a LoRA with a tiny "down" and one with a tiny "up": moved as a whole, neither would fit."""
    adapter = Adapter("lora", {"down": torch.tensor([[3e-9, 1e-9], [7e5, 3e5]]), "up": torch.tensor([[5.0, 3e-8], [2.0, 1e-8]])},
                      2.0, 2, "unet")
    moved = balanced(adapter, torch.float16)
    shifts = (moved.tensors["down"].double() / adapter.tensors["down"].double()).log2()
    assert torch.equal(shifts, shifts.round()) and shifts[0, 0] == shifts[0, 1] != shifts[1, 0] == shifts[1, 1]
    exact, made = ({role: value.double() for role, value in each.tensors.items()} for each in (adapter, moved))
    assert torch.equal(made["up"] @ made["down"], exact["up"] @ exact["down"])
    half = {role: value.half().double() for role, value in moved.tensors.items()}
    assert (half["up"] @ half["down"] - exact["up"] @ exact["down"]).norm() / (exact["up"] @ exact["down"]).norm() < 1e-2
    nothing = Adapter("lora", {"down": torch.full((1, 2), 1e-9), "up": torch.zeros(2, 1)}, 1.0, 1, "unet")
    assert not balanced(nothing, torch.float16).tensors["up"].any() and lost({"a": nothing}, torch.float16) == 0
