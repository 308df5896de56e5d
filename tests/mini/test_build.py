"""The whole recipe on networks so small that it takes seconds: stopped and resumed, it ends in the same weights."""

import pytest
import torch
from safetensors.torch import load_file

from sdlora.mini import training
from sdlora.mini.autoencoder import VaeSettings
from sdlora.mini.build import Recipe, build
from sdlora.mini.denoiser import UnetSettings
from sdlora.mini.network import Shape, fresh, save_networks

MICRO = Shape((8, 8, 8, 8), 4, 32, 1, (16, 16), 8, 4, 32)
RECIPE = Recipe(
    scenes=8, vae_scenes=4, vae_textures=4, vae_fine=4, shape=MICRO, vae_steps=3, unet_steps=3,
    vae=VaeSettings(batch_size=2, crop_px=32), unet=UnetSettings(batch_size=4),
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(folder):
    """Every tensor of a base folder by part and name."""
    return {(p.parent.name, key): t for p in folder.rglob("*.safetensors") for key, t in load_file(p).items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    for _ in build(RECIPE, folder / "work", folder / "base"):
        pass
    return weights(folder / "base")


@pytest.mark.parametrize("phase, step", [("vae", 2), ("unet", 2)])
def test_resumed_build_ends_in_the_same_weights(tmp_path, monkeypatch, uninterrupted, phase, step):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    for where, progress in build(RECIPE, tmp_path / "work", tmp_path / "base"):
        if (where, progress.step) == (phase, step):
            break
    events = list(build(RECIPE, tmp_path / "work", tmp_path / "base"))
    assert len([where for where, _ in events if where == phase]) == RECIPE.vae_steps - step
    resumed = weights(tmp_path / "base")
    assert resumed.keys() == uninterrupted.keys()
    for key, tensor in uninterrupted.items():
        assert torch.equal(tensor, resumed[key]), key


def test_a_finished_phase_draws_no_pictures_again(tmp_path, monkeypatch):
    for where, progress in build(RECIPE, tmp_path / "work", tmp_path / "base"):
        if (where, progress.step) == ("unet", 1):
            break
    monkeypatch.setattr("sdlora.mini.build.fine_pictures", lambda *_: 1 / 0)
    assert {where for where, _ in build(RECIPE, tmp_path / "work", tmp_path / "base")} == {"unet"}


def test_a_folder_resumes_only_its_own_recipe(tmp_path):
    next(iter(build(RECIPE, tmp_path / "work", tmp_path / "out")))
    with pytest.raises(ValueError, match="another build"):
        next(iter(build(Recipe(vae_steps=1), tmp_path / "work", tmp_path / "out")))


def test_starting_from_a_base_keeps_its_encoder(tmp_path):
    save_networks(fresh(MICRO), tmp_path / "base", torch.float32)
    recipe = Recipe(
        source=str(tmp_path / "base"), scenes=8, vae_scenes=4, vae_textures=4, vae_fine=4, shape=MICRO, vae_steps=2, unet_steps=2,
        vae=VaeSettings(batch_size=2, crop_px=32), unet=UnetSettings(batch_size=4),
    )  # fmt: skip
    for _ in build(recipe, tmp_path / "work", tmp_path / "out"):
        pass
    old, new = weights(tmp_path / "base"), weights(tmp_path / "out")
    for (part, key), tensor in new.items():
        if part == "vae" and key.startswith(("encoder", "quant_conv")):
            assert torch.equal(old[part, key].half(), tensor), key
    assert not torch.equal(old["vae", "decoder.conv_out.weight"].half(), new["vae", "decoder.conv_out.weight"])


def test_a_short_build_draws_few_pictures():
    assert Recipe.for_minutes(1).scenes == 500
    assert Recipe.for_minutes(600).scenes == 24_000


def test_a_vae_alone_can_be_trained_further_and_the_unet_left_out(tmp_path):
    fresh(MICRO).vae.save_pretrained(tmp_path / "vae")
    recipe = Recipe(vae_source=str(tmp_path / "vae"), vae_scenes=4, vae_textures=4, vae_fine=4, shape=MICRO,
                    vae_steps=2, unet_steps=0, vae=VaeSettings(batch_size=2, crop_px=32))
    phases = [phase for phase, _ in build(recipe, tmp_path / "work", tmp_path / "out")]
    assert phases == ["vae", "vae"] and not (tmp_path / "work" / "cache").exists()
    old, new = (load_file(tmp_path / folder / "diffusion_pytorch_model.safetensors") for folder in ("vae", "out/vae"))
    assert not torch.equal(old["encoder.conv_in.weight"].half(), new["encoder.conv_in.weight"])


def test_a_base_with_another_vae_keeps_what_its_unet_knows(tmp_path):
    save_networks(fresh(MICRO), tmp_path / "base", torch.float32)
    fresh(MICRO).vae.save_pretrained(tmp_path / "vae")
    recipe = Recipe(source=str(tmp_path / "base"), vae_source=str(tmp_path / "vae"), scenes=8, vae_scenes=4, vae_textures=4,
                    vae_fine=4, shape=MICRO, vae_steps=1, unet_steps=0, vae=VaeSettings(batch_size=2, crop_px=32))
    for _ in build(recipe, tmp_path / "work", tmp_path / "out"):
        pass
    old, new = weights(tmp_path / "base"), weights(tmp_path / "out")
    other = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert not torch.equal(other["encoder.conv_in.weight"].half(), new["vae", "encoder.conv_in.weight"])
    assert {key for (part, key), tensor in new.items() if part == "unet" and not torch.equal(old[part, key].half(), tensor)} == {
        f"{end}.{kind}" for end in ("conv_in", "conv_out") for kind in ("weight", "bias")}
