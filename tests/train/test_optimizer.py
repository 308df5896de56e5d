"""AdamW against torch's, the schedule against diffusers', and what must never happen: a poisoned weight."""

import pytest
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch.nn.utils import clip_grad_norm_

from sdlora.train.optimizer import AdamW, rate_at


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in ((7, 3), (20,))]


def some_loss(weights, seed):
    generator = torch.Generator().manual_seed(1000 + seed)
    return sum(((weight - torch.randn(weight.shape, generator=generator)) ** 2).sum() for weight in weights)


@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
def test_moves_as_torch_does(clip_norm):
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(ours, weight_decay=0.05, clip_norm=clip_norm)
    oracle = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.05)
    for step in range(40):
        assert not optimizer.step(some_loss(ours, step), 0.01)
        oracle.zero_grad()
        some_loss(theirs, step).backward()
        clip_grad_norm_(theirs, clip_norm)
        oracle.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_clipping_really_clips():
    """Adam hides the size of a gradient, so look at its first moment: a tenth of the clipped gradient after one step."""
    weights = parameters()
    optimizer = AdamW(weights, weight_decay=0, clip_norm=0.25)
    optimizer.step(1000 * some_loss(weights, 0), 0.01)
    moment = torch.cat([optimizer.tensors[f"mean.{index}"].flatten() for index in range(2)]).norm()
    torch.testing.assert_close(moment, torch.tensor(0.025), rtol=1e-4, atol=0)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "one gradient"])
@pytest.mark.parametrize("step", [0, 3])
def test_never_moves_on_what_is_no_number(poison, where, step):
    weights = parameters()
    optimizer = AdamW(weights, weight_decay=0.05, clip_norm=1.0)
    for clean in range(step):
        assert not optimizer.step(some_loss(weights, clean), 0.01)
    before = [weight.detach().clone() for weight in weights], {k: v.clone() for k, v in optimizer.tensors.items()}
    loss = some_loss(weights, 9)
    if where == "loss":
        loss = loss * poison
    else:
        weights[0].register_hook(lambda gradient: gradient.index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(poison)))
    assert optimizer.step(loss, 0.01)
    assert all(torch.equal(now, then) for now, then in zip(weights, before[0], strict=True))
    assert all(torch.equal(optimizer.tensors[name], tensor) for name, tensor in before[1].items())


def test_an_overflow_of_scaled_gradients_is_a_skipped_step():
    weights = parameters()
    optimizer = AdamW(weights, weight_decay=0, clip_norm=1.0, scaled=True)
    before = weights[0].detach().clone()
    hook = weights[0].register_hook(lambda gradient: gradient * float("inf"))
    assert not optimizer.step(some_loss(weights, 0), 0.01)
    assert torch.equal(weights[0], before) and optimizer.tensors["scale"] == 2.0**15
    hook.remove()
    assert not optimizer.step(some_loss(weights, 0), 0.01)
    assert not torch.equal(weights[0], before)


def test_a_scale_that_ran_out_is_a_divergence():
    weights = parameters()
    optimizer = AdamW(weights, weight_decay=0, clip_norm=1.0, scaled=True)
    weights[0].register_hook(lambda gradient: gradient * float("inf"))
    answers = [bool(optimizer.step(some_loss(weights, 0), 0.01)) for _ in range(17)]
    assert answers == [False] * 16 + [True]


def test_scaled_steps_are_the_same_steps():
    plain, scaled = parameters(), parameters()
    for weights, flag in ((plain, False), (scaled, True)):
        optimizer = AdamW(weights, weight_decay=0.01, clip_norm=1.0, scaled=flag)
        for step in range(10):
            optimizer.step(some_loss(weights, step), 0.01)
    torch.testing.assert_close(plain[1], scaled[1], rtol=1e-5, atol=1e-6)


def test_cosine_is_the_usual_one():
    """Oracle: diffusers' schedule, whose first rate is 0 where ours is the first step of the ramp."""
    steps, warmup = 200, 10
    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    oracle = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    for step in range(steps):
        expected = oracle.get_last_lr()[0] if step >= warmup else (step + 1) / warmup
        assert rate_at(step, steps, 1.0, warmup, "cosine") == pytest.approx(expected)
        optimizer.step()
        oracle.step()


def test_constant_stays_and_a_short_run_reaches_its_rate():
    assert rate_at(150, 200, 3e-4, 20, "constant") == 3e-4
    assert rate_at(0, 5, 3e-4, 500, "constant") == 3e-4
    assert max(rate_at(step, 50, 1.0, 5000, "cosine") for step in range(50)) == 1.0
