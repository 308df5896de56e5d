"""A training without torch, and the run command around it: `python fake_run.py FOLDER --fence N`.

It keeps the contract of train.session.run_training: resumes from its newest checkpoint, asks control() before every step.
FAKE_CRASH_AT=7 kills the process hard at step 7; FAKE_SECONDS is the time of a step. The files "stepping" and "signalled" in
the run folder say that a step has begun and that a signal has been handled.
"""

import json
import os
import sys
import time
from pathlib import Path

from sdlora.train import events


def run_training(folder: Path, *, control):
    spec = json.loads((folder / "spec.json").read_text())
    steps, save_every = spec["config"]["steps"], spec["config"]["save_every"]
    saved = sorted((folder / "checkpoints").glob("step-*/state.json"))
    step, total = json.loads(saved[-1].read_text()) if saved else (0, 0)
    yield events.Preparing(step, "base", 0, 1)
    yield events.Prepared(step, steps, 4, None, (("bad.png", "damaged"),), 0.1)
    seconds = float(os.environ.get("FAKE_SECONDS", "0.01"))

    def save():
        point = folder / "checkpoints" / f"step-{step:06d}"
        point.mkdir(parents=True, exist_ok=True)
        (point / "state.json").write_text(json.dumps([step, total]))
        return events.Saved(step, f"checkpoints/{point.name}")

    while step < steps:
        command = control()
        if command == "pause":
            yield save()
            yield events.Stopped(step, steps)
            return
        if command == "stop":
            yield save()
            break
        if step == int(os.environ.get("FAKE_CRASH_AT", "-1")):
            os._exit(77)
        step, total = step + 1, total + step + 1
        (folder / "stepping").touch()
        time.sleep(seconds)
        yield events.Step(step, steps, 1 / step, 1 / step, 1e-3, (steps - step) * seconds)
        if step % save_every == 0:
            yield save()
    file = Path(spec["out"] or folder / "result" / "fake.txt")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{step} {total}")
    yield events.Done(step, steps, spec["id"], str(file), 1.0)


if __name__ == "__main__":
    from sdlora.errors import UserError
    from sdlora.jobs.execute import Control, execute

    on_signal = Control.on_signal
    Control.on_signal = lambda control, *what: on_signal(control, *what) or (control.folder / "signalled").touch()
    try:
        sys.exit(execute(Path(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 3 else 0, training=run_training))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
