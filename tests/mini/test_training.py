"""Number format, optimizer, learning rate and budget of the recipe."""

import pytest
import torch

from sdlora.mini.training import Budget, Progress, autocast, learning_rate, orthogonal


@pytest.mark.parametrize("bf16", [True, False])
def test_an_update_becomes_nearly_orthogonal_in_either_number_format(bf16, monkeypatch):
    monkeypatch.setattr("sdlora.mini.training.has_bf16", lambda device: bf16)
    values = torch.linalg.svdvals(orthogonal(torch.randn(12, 30, generator=torch.Generator().manual_seed(0))))
    assert 0.6 < values.min() and values.max() < 1.3


@pytest.mark.parametrize(("avx", "amx", "narrow"), [(False, False, False), (True, False, True), (False, True, True)])
def test_bf16_is_used_only_by_a_cpu_that_computes_in_it(avx, amx, narrow, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if narrow else torch.float32)


def test_every_run_ends_annealed():
    assert learning_rate(1.0, 1000, 1e-3) == pytest.approx(2e-5)
    assert learning_rate(0.2, 1000, 1e-3) == 1e-3
    assert Budget(seconds=10).share(Progress(seconds=5)) == 0.5
    assert Budget(steps=4).share(Progress(step=4)) == 1.0
