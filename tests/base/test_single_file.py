"""One file or a diffusers folder: the same model. Tiny SD 1, 2 and XL with random weights, in the world's two namings."""

import json
import shutil

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdlora import storage
from sdlora.base import single_file
from sdlora.base.load import load_base
from sdlora.errors import UserError
from sdlora.families import FAMILIES, WIDTHS
from tests.base.ldm_names import clip_names, open_clip_names, unet_names, vae_names

PROMPTS = ["a photo of a cat", "", "a wide view of the old harbour " * 20]
CLASSES = {"sd1": StableDiffusionPipeline, "sd2": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


def text_encoder(kind, activation):
    torch.manual_seed(7)
    return kind(CLIPTextConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                               hidden_act=activation, projection_dim=32, max_position_embeddings=77, vocab_size=49408,
                               bos_token_id=0, eos_token_id=2, pad_token_id=1)).eval()


def tiny(family):
    """The parts of a tiny pipeline of this family, by name."""
    torch.manual_seed(11)
    xl = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32 + 48,
          "transformer_layers_per_block": (1, 2)} if family == "sdxl" else {}
    down = ("DownBlock2D", "CrossAttnDownBlock2D") if family == "sdxl" else ("CrossAttnDownBlock2D", "DownBlock2D")
    up = ("CrossAttnUpBlock2D", "UpBlock2D") if family == "sdxl" else ("UpBlock2D", "CrossAttnUpBlock2D")
    unet = UNet2DConditionModel(sample_size=16, block_out_channels=(32, 64), layers_per_block=2, down_block_types=down,
                                up_block_types=up, attention_head_dim=8, norm_num_groups=8,
                                cross_attention_dim=64 if family == "sdxl" else 32,
                                use_linear_projection=family != "sd1", **xl)
    vae = AutoencoderKL(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, latent_channels=4, sample_size=32,
                        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    parts = {"unet": unet.eval(), "vae": vae.eval(), "tokenizer": single_file.tokenizer("text_encoder", family),
             "text_encoder": text_encoder(CLIPTextModel, "gelu" if family == "sd2" else "quick_gelu"),
             "scheduler": DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
                                        steps_offset=1)}
    if family == "sdxl":
        return parts | {"text_encoder_2": text_encoder(CLIPTextModelWithProjection, "gelu"),
                        "scheduler": EulerDiscreteScheduler(), "tokenizer_2": single_file.tokenizer("text_encoder_2", family)}
    return parts | {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def one_file(family, parts):
    """The same weights under the names of a single file."""
    state = unet_names(parts["unet"].state_dict()) | vae_names(parts["vae"].state_dict())
    text = parts["text_encoder"].state_dict()
    if family == "sd1":
        state |= clip_names(text, "cond_stage_model.transformer.")
    if family == "sd2":
        state |= open_clip_names(text, "cond_stage_model.model.")
    if family == "sdxl":
        state |= clip_names(text, "conditioner.embedders.0.transformer.")
        state |= open_clip_names(parts["text_encoder_2"].state_dict(), "conditioner.embedders.1.model.")
    return {key: value.contiguous().clone() for key, value in state.items()}


@pytest.fixture(scope="module", params=list(CLASSES))
def both(request, tmp_path_factory):
    """family, pipeline, its folder, its single file."""
    family, where = request.param, tmp_path_factory.mktemp(request.param)
    parts = tiny(family)
    pipeline = CLASSES[family](**parts)
    pipeline.save_pretrained(where / "folder")
    save_file(one_file(family, parts), where / "model.safetensors")
    return family, pipeline, where / "folder", where / "model.safetensors"


@pytest.fixture
def tiny_configs(both, tmp_path, monkeypatch):
    """The shipped configurations replaced by those of the tiny model; text width 32 counts as this family's."""
    family, _, folder, _ = both
    shutil.copytree(folder, tmp_path / "configs" / family, ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(storage.shipped("assets", "configs", "clip_tokenizer"), tmp_path / "configs" / "clip_tokenizer")
    monkeypatch.setattr(single_file.storage, "shipped", lambda *parts: tmp_path.joinpath(*parts[1:]))
    monkeypatch.setitem(WIDTHS, 32, family)


def test_one_file_is_the_folder(both, tiny_configs):
    family, pipeline, folder, path = both
    first, second = load_base(str(folder), "cpu"), load_base(str(path), "cpu")
    assert first.family == second.family == family
    assert first.identity != second.identity and second.resolution in (32, 128, 192)
    ours, theirs = first.encode_text(PROMPTS), second.encode_text(PROMPTS)
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key
    noisy, timesteps = torch.randn(3, 4, 16, 16), torch.tensor([1, 500, 999])
    moved = first.predict(noisy, timesteps, ours, (32, 48))
    assert torch.equal(moved, second.predict(noisy, timesteps, theirs, (32, 48)))
    assert not torch.equal(moved[:1], first.predict(noisy[:1], timesteps[:1], {k: v[1:2] for k, v in ours.items()}, 32))
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.allclose(first.encode_pictures(pixels)[0], second.encode_pictures(pixels)[0], atol=1e-6)


def test_text_is_what_the_pipeline_encodes(both, tiny_configs):
    family, pipeline, folder, _ = both
    base = load_base(str(folder), "cpu", parts=("text",))
    ours = base.encode_text(PROMPTS)
    theirs = pipeline.encode_prompt(PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    assert torch.equal(ours["states"], theirs[0])
    assert family != "sdxl" or torch.equal(ours["pooled"], theirs[2])


@pytest.mark.parametrize("both", ["sdxl"], indirect=True)
def test_xl_prediction_is_told_the_size(both, tiny_configs):
    _, pipeline, folder, _ = both
    base = load_base(str(folder), "cpu", parts=("text", "unet"))
    features, noisy, timesteps = base.encode_text(PROMPTS[:1]), torch.randn(1, 4, 16, 24), torch.tensor([500])
    ids = torch.tensor([[32, 48, 0, 0, 32, 48]], dtype=torch.float32)  # height before width
    unet = pipeline.unet.to(memory_format=torch.channels_last)  # the layout decides the last bits
    wanted = unet(noisy, timesteps, encoder_hidden_states=features["states"],
                  added_cond_kwargs={"text_embeds": features["pooled"], "time_ids": ids}).sample
    assert torch.equal(base.predict(noisy, timesteps, features, (48, 32)), wanted)
    assert not torch.equal(base.predict(noisy, timesteps, features, (32, 48)), wanted)


def test_a_file_without_all_parts_is_a_sentence(both, tiny_configs, tmp_path):
    family, _, _, path = both
    whole = load_file(path)
    for prefix, word in (("first_stage_model.", "vae"), (("cond_stage_model.", "conditioner."), "text encoder")):
        save_file({k: v for k, v in whole.items() if not k.startswith(prefix)}, tmp_path / "part.safetensors")
        with pytest.raises(UserError, match=f"holds no {word}"):
            load_base(str(tmp_path / "part.safetensors"), "cpu")
    holed = dict(whole)
    del holed["model.diffusion_model.middle_block.0.in_layers.2.weight"]
    save_file(holed, tmp_path / "holed.safetensors")
    with pytest.raises(UserError, match="lacks weights"):
        load_base(str(tmp_path / "holed.safetensors"), "cpu")
    first = next(key for key in whole if "mlp.fc1" in key or "mlp.c_fc" in key)
    save_file({key: value for key, value in whole.items() if key != first}, tmp_path / "holed.safetensors")
    with pytest.raises(UserError, match="lacks weights"):
        load_base(str(tmp_path / "holed.safetensors"), "cpu", parts=("text",))


@pytest.mark.parametrize("both", ["sdxl"], indirect=True)
def test_fp16_only_folders_are_taken(both, tiny_configs, tmp_path):
    _, pipeline, folder, _ = both
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    assert not list(tmp_path.glob("half/unet/diffusion_pytorch_model.safetensors"))
    one, other = (load_base(str(place), "cpu", parts=("unet", "vae")) for place in (folder, tmp_path / "half"))
    assert one.identity == other.identity
    assert torch.equal(one.unet.conv_in.weight, other.unet.conv_in.weight)


def test_v_models_are_told_apart(both, tiny_configs, tmp_path):
    family, _, _, path = both
    state = load_file(path)
    assert load_base(str(path), "cpu", parts=()).prediction_type == "epsilon"
    marked = state | {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}
    if family == "sd2":
        marked = state | {single_file.V_MARK: torch.tensor([1.0, -1.0])}
    save_file(marked, tmp_path / "v.safetensors")
    base = load_base(str(tmp_path / "v.safetensors"), "cpu", parts=())
    assert base.prediction_type == "v_prediction"
    assert base.scheduler_config.get("rescale_betas_zero_snr", False) == (family != "sd2")
    save_file(state, tmp_path / "said.safetensors", {"modelspec.prediction_type": "v"})
    assert load_base(str(tmp_path / "said.safetensors"), "cpu", parts=()).prediction_type == "v_prediction"


def test_shipped_configurations_are_the_published_ones():
    from accelerate import init_empty_weights
    published = {"sd1": 859_520_964, "sd2": 865_910_724, "sdxl": 2_567_463_684}
    for family, wanted in published.items():
        folder = storage.shipped("assets", "configs", family)
        with init_empty_weights():
            unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet"))
            vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder, subfolder="vae"))
        assert sum(p.numel() for p in unet.parameters()) == wanted
        assert sum(p.numel() for p in vae.parameters()) == 83_653_863
        known = FAMILIES[family]
        assert unet.config.cross_attention_dim == known.width and unet.config.sample_size * 8 == known.resolution
        index = json.loads((folder / "model_index.json").read_text())
        assert all((folder / part).is_dir() for part in index if part in ("unet", "vae", "text_encoder", "text_encoder_2"))


def test_clip_token_ids_are_those_of_open_clip():
    first, second = single_file.tokenizer("text_encoder", "sdxl"), single_file.tokenizer("text_encoder_2", "sdxl")
    assert first("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert first("Stable Diffusion!").input_ids == [49406, 10492, 18656, 9364, 256, 49407]
    assert first("naïve café  \n new line").input_ids == [49406, 1097, 35689, 563, 15304, 686, 1148, 49407]
    assert first("a", padding="max_length", max_length=5).input_ids == [49406, 320, 49407, 49407, 49407]
    assert second("a", padding="max_length", max_length=5).input_ids == [49406, 320, 49407, 0, 0]
    assert first.model_max_length == 77
