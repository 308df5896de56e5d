"""The cache of the UNet's training: shards are written once and read back as they were made."""

from random import Random

import torch

from sdlora.mini import latents
from sdlora.mini.network import MAX_TOKENS, fresh
from sdlora.mini.scenes import random_scene
from tests.mini.test_build import MICRO


def test_a_shard_is_read_back_as_it_was_made_and_never_made_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "SHARD", 2)
    parts = fresh(MICRO)
    latents.fill_cache(parts.vae, parts.tokenizer, tmp_path, 4)
    first, second = sorted(tmp_path.iterdir())
    found = latents.read_cache(tmp_path)
    assert len(found) == 4 and found.ids.shape == (4, latents.CAPTIONS, MAX_TOKENS) and found.maps.shape == (4, 4, 4)
    rng = Random(0)
    made = latents.make_examples(parts.vae, parts.tokenizer, [random_scene(rng, 0.2) for _ in range(2)])
    for key, values in vars(made).items():
        assert torch.equal(vars(found)[key][:2], values), key
        assert not torch.equal(vars(found)[key][2:], values), key
    second.unlink()
    written = first.stat().st_mtime_ns
    latents.fill_cache(parts.vae, parts.tokenizer, tmp_path, 4)
    assert first.stat().st_mtime_ns == written and torch.equal(latents.read_cache(tmp_path).latents, found.latents)


def test_a_picture_is_encoded_to_finite_half_floats_an_eighth_as_wide():
    pictures = torch.randint(256, (3, 3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = latents.encode(fresh(MICRO).vae, pictures)
    assert made.dtype == torch.float16 and made.shape == (3, MICRO.latent_channels, 4, 8) and made.isfinite().all()
