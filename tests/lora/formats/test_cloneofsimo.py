"""Files of cloneofsimo's trainer: built by hand, checked by widths alone."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sdlora.errors import UserError
from sdlora.lora.formats import reading
from sdlora.lora.formats.cloneofsimo import text_table, unet_table
from sdlora.lora.formats.module_tables import family_table

WIDTHS = [320, 320, 640, 640, 1280, 1280, *[1280] * 3, *[640] * 3, *[320] * 3, 1280]  # by block: down, up, middle
RANK = 2


def tensors(states=768, layers=12, blocks=WIDTHS, order=None):
    """{"unet:0:up": ...} as they were saved in 2022: in each block attn1 q k v out, the GEGLU layer, attn2 q k v out."""
    made, shapes = {}, []
    for width in blocks:
        shapes += [(width, width)] * 4 + [(8 * width, width), (width, width), (width, states), (width, states), (width, width)]
    for number, (out, inputs) in enumerate(order(shapes) if order else shapes):
        made |= {f"unet:{number}:up": torch.full((out, RANK), float(number)), f"unet:{number}:down": torch.ones(RANK, inputs)}
    for number in range(4 * layers):
        made |= {f"text_encoder:{number}:up": torch.full((states, RANK), float(number)),
                 f"text_encoder:{number}:down": torch.ones(RANK, states)}
    return made


def saved(folder, content, classes=("CrossAttention", "Attention", "GEGLU"), **metadata):
    save_file({key: value.half() for key, value in content.items()}, folder / "a.safetensors",
              {"unet": json.dumps(classes), "text_encoder": '["CLIPAttention"]', **metadata})
    return folder / "a.safetensors"


@pytest.mark.parametrize(("states", "layers", "family"), [(768, 12, "sd1"), (1024, 23, "sd2")])
def test_every_number_has_its_module(tmp_path, states, layers, family):
    found = reading.read(saved(tmp_path, tensors(states, layers)))
    assert (found.dialect, found.family, len(found.adapters), found.problems) == (
        "cloneofsimo", family, 144 + 4 * layers, ())
    up = {path: float(adapter.tensors["up"][0, 0]) for path, adapter in found.adapters.items()}
    assert up["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"] == 0
    assert up["down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"] == 4
    assert up["down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_out.0"] == 9 * 5 + 8
    assert up["up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"] == 9 * 6 + 6
    assert up["up_blocks.3.attentions.2.transformer_blocks.0.attn1.to_v"] == 9 * 14 + 2
    assert up["mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"] == 9 * 15 + 3
    assert [up[f"te1:text_model.encoder.layers.1.self_attn.{name}_proj"] for name in ("k", "v", "q", "out")] == [4, 5, 6, 7]
    assert {adapter.scale for adapter in found.adapters.values()} == {1.0}


def test_the_table_is_all_attention_of_the_family():
    attention = {path for path in family_table("sd1") if (".attn" in path or "ff.net.0" in path) and ":" not in path}
    assert set(unet_table(144, set())) == attention and len(unet_table(128, {"CrossAttention"})) == 128
    assert len(text_table(48)) == 48


def test_its_embeddings_are_named(tmp_path):
    found = reading.read(saved(tmp_path, tensors() | {"<s1>": torch.ones(768)}, **{"<s1>": "<embed>"}))
    assert "It carries the embedding <s1>, which is left out." in found.problems


def test_another_order_is_refused_and_never_guessed(tmp_path):
    down_up_swapped = WIDTHS[::-1]
    for content, classes, says in (
            (tensors(blocks=down_up_swapped), ["Attention", "GEGLU"], "order"),
            (tensors(), ["ResnetBlock2D", "Attention", "GEGLU"], "ResnetBlock2D"),
            (tensors(blocks=WIDTHS[:-1]), ["Attention", "GEGLU"], "135 layers"),
            (tensors(states=512), ["Attention", "GEGLU"], "order")):
        with pytest.raises(UserError, match=f"cloneofsimo.*{says}"):
            reading.read(saved(tmp_path, content, classes))


def newer(shapes):
    """attn1, attn2, feed-forward: the order of diffusers since 0.15."""
    return [shape for at in range(0, len(shapes), 9) for shape in (*shapes[at:at + 4], *shapes[at + 5:at + 9], shapes[at + 4])]


@pytest.mark.parametrize(("states", "layers", "family"), [(768, 12, "sd1"), (1024, 23, "sd2")])
def test_the_newer_order_is_read_by_its_widths(tmp_path, states, layers, family):
    found = reading.read(saved(tmp_path, tensors(states, layers, order=newer)))
    assert (found.family, len(found.adapters), found.problems) == (family, 144 + 4 * layers, ())
    up = {path: float(adapter.tensors["up"][0, 0]) for path, adapter in found.adapters.items()}
    assert up["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"] == 4
    assert up["down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"] == 8
    assert up["up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"] == 9 * 6 + 5
