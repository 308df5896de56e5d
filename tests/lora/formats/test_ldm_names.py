"""Block names of LDM and sgm: every module of SDXL's UNet there and back. (diffusers' converter judges them in test_dialects.)"""

import pytest

from sdlora.lora.formats.ldm_names import from_ldm, to_ldm
from sdlora.lora.formats.module_tables import family_table


def test_sgm_names_go_both_ways_for_all_of_sdxl():
    paths = [path for path in family_table("sdxl") if ":" not in path]
    assert len({to_ldm(path) for path in paths}) == len(paths)
    assert all(from_ldm(to_ldm(path)) == path for path in paths)
    assert from_ldm("output_blocks.2.1.conv") == "up_blocks.0.upsamplers.0.conv"  # SD 1.x has no attention there


@pytest.mark.parametrize("path", ["mid_block", "text_model.encoder.layers.0.mlp.fc1", "down_blocks.0.attentions"])
def test_other_paths_have_no_such_name(path):
    assert from_ldm(path) is None
    with pytest.raises(ValueError, match="no sgm name"):
        to_ldm(path)
