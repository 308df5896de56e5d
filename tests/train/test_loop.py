"""The real loop on the tiny UNet: resumed bit for bit, never poisoned, the same whether read at once or in bursts."""

from dataclasses import replace

import pytest
import torch

from sdlora.base.load import load_base
from sdlora.config import TrainConfig
from sdlora.errors import UserError
from sdlora.train import loop
from sdlora.train.cache import Items
from sdlora.train.checkpoint import TrainState, newest_checkpoint, save_checkpoint
from sdlora.train.events import Rewound, Step
from sdlora.train.layers import attach
from sdlora.train.loss import Denoiser, alphas_cumprod
from sdlora.train.optimizer import AdamW
from tests import tiny

CONFIG = TrainConfig(steps=8, rank=2, learning_rate=1e-2, batch_size=2, caption_dropout=0.5, save_every=3, sample_every=3)
BASE = {}


class Bench:
    """Everything a run has, made afresh from the base's folder, as a new process would."""

    def __init__(self, config=CONFIG, seed=1):
        base = BASE["base"]
        self.attached = attach(base.unet, config.rank, config.rank, config.seed)
        generator = torch.Generator().manual_seed(5)
        self.items = Items(torch.randn((4, 4, 8, 8), generator=generator), torch.full((4, 4, 8, 8), 0.1),
                           base.encode_text([*tiny.PROMPTS, ""]), [0, 1, 2, 3], [1, 1, 2, 1], 32)
        self.config, self.calls, self.poison = config, 0, {}
        optimizer = AdamW(self.attached.parameters, weight_decay=config.weight_decay, clip_norm=config.clip_norm)
        self.state = TrainState.fresh(self.attached.parameters, optimizer, seed)
        self.model = Denoiser(self.predict, alphas_cumprod(base.scheduler_config, "cpu"))

    def predict(self, noisy, timesteps, features, size_px):
        self.calls += 1
        answer = BASE["base"].predict(noisy, timesteps, features, size_px)
        return answer * self.poison.get(self.calls, 1.0)

    def run(self, stop_at=None, due=lambda step: step % 3 == 0):
        try:
            yield from loop.train(self.model, self.items, self.config, self.state, checkpoint_due=due,
                                  stop=lambda: self.state.step == stop_at)
        finally:
            self.attached.detach()

    def weights(self):
        return self.state.parameters[0].detach().clone()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(autouse=True)
def base(folder):
    BASE["base"] = load_base(str(folder), "cpu")


def facts(events):
    """Events without the clock."""
    return [replace(event, seconds_left=0) if isinstance(event, Step) else event for event in events]


def test_moves_the_adapters_and_nothing_else():
    frozen = {name: weight.clone() for name, weight in BASE["base"].unet.state_dict().items()}
    bench = Bench(TrainConfig(steps=24, rank=4, learning_rate=2e-2, batch_size=2))
    before = bench.weights()
    events = list(bench.run())
    assert [event.step for event in events] == list(range(1, 25))
    assert not torch.equal(bench.weights(), before)
    assert events[-1].loss_average < events[2].loss_average
    assert all(torch.equal(weight, frozen[name]) for name, weight in BASE["base"].unet.state_dict().items())


@pytest.mark.parametrize("stop_at", range(1, 8))
def test_stopped_anywhere_it_ends_in_the_same_tensors(stop_at, tmp_path):
    """F13: through the disk, into new objects, against one run that never stopped."""
    straight = Bench()
    expected = facts(straight.run())
    first = Bench()
    got = facts(first.run(stop_at=stop_at))
    assert len(got) == stop_at
    save_checkpoint(tmp_path, first.state.snapshot(), {}, lambda path: path.write_bytes(b"-"))
    second = Bench(seed=77)
    second.state.restore(newest_checkpoint(tmp_path)[0])
    got += facts(second.run())
    assert got == expected
    end, same = straight.state.snapshot(), second.state.snapshot()
    assert all(torch.equal(end.tensors[name], same.tensors[name]) for name in end.tensors) and end.numbers == same.numbers


@pytest.mark.parametrize(("poison", "step"), [(float("nan"), 1), (float("nan"), 5), (float("inf"), 8)])
def test_rewinds_and_goes_on_at_half_the_rate(poison, step):
    bench = Bench()
    bench.poison = {step: poison}
    events = list(bench.run())
    good = 3 * ((step - 1) // 3)
    rewound = events[step - 1]
    assert isinstance(rewound, Rewound) and (rewound.step, rewound.to_step) == (step, good)
    assert rewound.learning_rate == CONFIG.learning_rate / 2
    assert [event.step for event in events[step:]] == list(range(good + 1, 9))
    clean = facts(Bench().run())
    assert facts(events[:step - 1]) == clean[:step - 1]
    assert events[-1].learning_rate == clean[-1].learning_rate / 2
    assert bench.weights().isfinite().all()


def test_a_gradient_that_is_no_number_is_found_too():
    bench, count = Bench(), []

    def spoil(gradient):
        count.append(1)
        return gradient.index_put((torch.tensor(3),), torch.tensor(float("nan"))) if len(count) == 4 else gradient

    bench.state.parameters[0].register_hook(spoil)
    events = list(bench.run())
    assert [type(event) for event in events].index(Rewound) == 3 and "gradients" in events[3].reason
    assert bench.state.step == 8 and bench.weights().isfinite().all()


def test_the_second_time_it_fails_with_the_last_good_state():
    bench = Bench()
    bench.poison = {5: float("nan"), 8: float("nan")}
    seen, kept = [], {}
    with pytest.raises(UserError, match="a second time, at step 6"):
        for event in bench.run():
            seen.append(event)
            kept[event.step] = bench.weights()
    assert isinstance(seen[4], Rewound) and bench.state.step == 3
    assert torch.equal(bench.weights(), kept[3])


@pytest.mark.parametrize("poison", [{}, {1: float("nan")}, {5: float("nan")}, {8: float("nan")}])
def test_reading_in_bursts_changes_nothing(poison, monkeypatch):
    """What a GPU does: the flag is read every few steps; the steps made meanwhile on top of a bad one are thrown away."""
    once = Bench()
    once.poison = dict(poison)
    expected = facts(once.run(due=lambda step: step == 4))
    monkeypatch.setitem(loop.READ_EVERY, "cpu", 3)
    burst = Bench()
    bad = min(poison, default=0)
    burst.poison = dict(poison)
    got = facts(burst.run(due=lambda step: step == 4))
    assert got == expected and torch.equal(once.weights(), burst.weights())
    assert bool(bad) == any(isinstance(event, Rewound) for event in got)


def test_stop_reads_what_is_still_unread(monkeypatch):
    monkeypatch.setitem(loop.READ_EVERY, "cpu", 100)
    bench = Bench()
    assert [event.step for event in bench.run(stop_at=5, due=lambda step: False)] == [1, 2, 3, 4, 5]


def test_stop_is_asked_before_the_first_step():
    bench = Bench()
    assert list(bench.run(stop_at=0)) == [] and bench.calls == 0


def test_dropped_captions_see_the_empty_one():
    bench = Bench()
    config = CONFIG.model_copy(update={"caption_dropout": 0.9, "batch_size": 64})
    features = loop.next_batch(bench.items, 1000, config, bench.state)[3]["states"]
    empty = sum(torch.equal(row, bench.items.features["states"][-1]) for row in features)
    bench.attached.detach()
    assert 45 <= empty <= 63
