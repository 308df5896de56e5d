"""The training loop: cached latents in, events and trained adapters out.

Knows nothing about pictures, files or Gradio. Between two events the state is whole and may be saved.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor

from sdlora.config import TrainConfig
from sdlora.errors import UserError
from sdlora.train.cache import Items
from sdlora.train.checkpoint import Snapshot, TrainState
from sdlora.train.events import Rewound, Step
from sdlora.train.loss import Denoiser, Features, denoising_loss
from sdlora.train.optimizer import rate_at

READ_EVERY = {"cpu": 1, "accelerator": 8}  # steps


def train(model: Denoiser, items: Items, config: TrainConfig, state: TrainState, *,
          stop: Callable[[], bool], checkpoint_due: Callable[[int], bool]) -> Iterator[Step | Rewound]:
    """Yield a Step for each step made, a Rewound when the state goes back to an earlier step.

    On a CPU the loss of each step is read at once; elsewhere every few steps, so that the device never waits, and whenever
    `checkpoint_due(step)`. When the `step` of a Step is `state.step`, the state is checked and may be saved.
    stop() is called before every step; the loop ends when it returns True. Raises UserError when the run diverges twice.
    """
    read_every = READ_EVERY["cpu" if items.mean.device.type == "cpu" else "accelerator"]
    pace: deque[float] = deque(maxlen=50)  # seconds of the latest steps
    good, unread, stopping, spent = state.snapshot(), [], False, 0.0
    while True:
        if unread and (len(unread) >= read_every or stopping or state.step == config.steps or checkpoint_due(state.step)):
            began = time.monotonic()
            values = torch.stack([flags for _, _, flags in unread]).tolist()  # the only wait for the device
            pace.append((spent + time.monotonic() - began) / len(unread))
            bad = next((place for place, (_, diverged) in enumerate(values) if diverged), len(unread))
            for (step, rate, _), (loss_value, _) in zip(unread[:bad], values[:bad], strict=True):
                average = state.average(loss_value, step)
                yield Step(step, config.steps, loss_value, average, rate, median(pace) * (config.steps - step))
            if bad < len(unread):
                yield rewind(state, good, unread[bad][0], values[bad][0], config.learning_rate)
            elif checkpoint_due(state.step):
                good = state.snapshot()
            unread, spent = [], 0.0
            continue
        if stopping or state.step == config.steps:
            return
        if stopping := stop():
            continue
        began = time.monotonic()
        latents, noise, timesteps, features = next_batch(items, len(model.abar), config, state)
        rate = state.rate_factor * rate_at(state.step, config.steps, config.learning_rate,
                                           config.warmup_steps, config.schedule)
        loss = denoising_loss(model, latents, noise, timesteps, features, items.size_px)
        diverged = state.optimizer.step(loss, rate)
        state.step += 1
        unread.append((state.step, rate, torch.stack([loss.detach().float(), diverged.float()])))
        spent += time.monotonic() - began


def next_batch(items: Items, timestep_count: int, config: TrainConfig,
               state: TrainState) -> tuple[Tensor, Tensor, Tensor, Features]:
    """Return latents and noise (b, c, h, w) fp32, timesteps (b,) int64, features (b, ...): all that is random in a step."""
    device, count = items.mean.device, config.batch_size
    pictures = state.next_pictures(count, items.repeats)
    dropped = (torch.rand(count, generator=state.dropout) < config.caption_dropout).tolist()
    empty = len(items.features["states"]) - 1
    captions = [empty if drop else items.caption_of[index] for index, drop in zip(pictures, dropped, strict=True)]
    chosen = torch.tensor(pictures, device=device)
    captioned = torch.tensor(captions, device=device)
    mean = items.mean[chosen]
    posterior, noise = torch.randn((2, *mean.shape), generator=state.noise, device=device)
    timesteps = torch.randint(timestep_count, (count,), generator=state.noise, device=device)
    return mean + items.std[chosen] * posterior, noise, timesteps, {k: v[captioned] for k, v in items.features.items()}


def rewind(state: TrainState, good: Snapshot, step: int, loss: float, learning_rate: float) -> Rewound:
    """Go back to the last good state at half the learning rate. The second time raises UserError, with the state restored."""
    reason = "The gradients grew without end." if math.isfinite(loss) else "The loss was no longer a number."
    rewinds, factor = state.rewinds + 1, state.rate_factor / 2
    state.restore(good)
    if rewinds > 1:
        raise UserError(f"Training ran out of control a second time, at step {step}. {reason}",
                        "Start again with a lower learning rate. The last checkpoint is kept.")
    state.rewinds, state.rate_factor = rewinds, factor
    return Rewound(step, state.step, factor * learning_rate, reason)
