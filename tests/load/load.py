"""Measure the real server under load: python tests/load/load.py [--clients 100] [--seconds 60].

The server runs in a process of its own on a data folder made here, with a run that goes on meanwhile; the clients in this one.
Prints one JSON object.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent))
from clients import Client, Told  # noqa: E402

from sdlora.config import from_preset  # noqa: E402
from sdlora.jobs import run as runs  # noqa: E402
from sdlora.jobs.lock import hold  # noqa: E402
from sdlora.train import events  # noqa: E402

ROOT = Path(__file__).parents[2]
MOST_CLIENTS, MOST_SECONDS = 200, 600
SAMPLE_EVERY_S = 20


def fill(home: Path, styles: int) -> Path:
    """A data folder with a shelf of styles with covers and a run in the middle of its way; the run's folder."""
    shelf = home / "loras"
    shelf.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(styles):
        name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
        tensors = {f"{name}.lora_down.weight": draw.normal(size=(4, 768)).astype(np.float16),
                   f"{name}.lora_up.weight": draw.normal(size=(320, 4)).astype(np.float16)}
        save_file(tensors, shelf / f"meadow-{number}.safetensors", {"ss_output_name": f"meadow {number} style {number % 7}"})
        picture = draw.integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(picture).resize((512, 512)).save(shelf / f"meadow-{number}.png")
    run = runs.create_run(from_preset("quick", "mini", 12, name="Meadow", trigger="mdw", steps=4000), home)
    (run / "samples").mkdir()
    told = [events.Prepared(0, 4000, 12, None, (), 1.0)]
    for step in (0, 100):
        told += [events.Step(each, 4000, 0.1, 0.2, 1e-3, 95.0) for each in range(1, step + 1)]
        for prompt in range(3):
            Image.fromarray(draw.integers(0, 255, (256, 256, 3), np.uint8)).save(run / "samples" / f"{step:06d}-{prompt}.png")
            told.append(events.Sample(step, prompt, f"mdw, a cat {prompt}", 1, f"samples/{step:06d}-{prompt}.png"))
    (run / "events.jsonl").write_text("".join(events.to_json(event) + "\n" for event in told))
    return run


@contextlib.contextmanager
def served(home: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The real server on a free port of loopback; its worker and it are ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"SDLORA_HOME": str(home), "PYTHONPATH": str(ROOT)}
    with (home / "server.log").open("ab") as log:
        command = [sys.executable, str(ROOT / "app.py"), "--port", str(port)]
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(port, child)
        yield port, psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait(20)
        for process in psutil.process_iter(["cwd", "environ"]):
            if process.pid != os.getpid() and (process.info["environ"] or {}).get("SDLORA_HOME") == str(home):
                process.terminate()


def wait_for(port: int, child: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if child.poll() is not None:
            raise RuntimeError("the server ended; see server.log")
        time.sleep(0.1)
    raise RuntimeError("the server did not start within 120 s")


def tell(run: Path, event: events.Event) -> None:
    with (run / "events.jsonl").open("a") as story:
        story.write(events.to_json(event) + "\n")


async def crowd(port: int, server: psutil.Process, clients: int, seconds: float, run: Path) -> dict:
    """Let the clients in; what was measured."""
    told, memory, cpu = Told(), [], server.cpu_times()
    until = time.monotonic() + seconds
    tabs = [asyncio.create_task(Client(port, told, number).live(until)) for number in range(clients)]
    for second in range(round(seconds)):
        await asyncio.sleep(1)
        tell(run, events.Step(101 + second, 4000, 0.1, 0.2, 1e-3, 95.0))
        if second % SAMPLE_EVERY_S == SAMPLE_EVERY_S - 1:
            tell(run, events.Sample(101 + second, 0, "mdw, a cat 0", 1, "samples/000100-0.png"))
        memory.append(server.memory_info().rss / 1e6)
    await asyncio.gather(*tabs)
    spent = server.cpu_times()
    return report(told, memory, spent.user + spent.system - cpu.user - cpu.system, seconds)


def report(told: Told, memory: list[float], cpu_s: float, seconds: float) -> dict:
    every = [each for times in told.seconds.values() for each in times]
    return {
        "requests": len(every),
        "per_second": round(len(every) / seconds, 1),
        "all": spread(every),
        "kinds": {kind: spread(times) for kind, times in sorted(told.seconds.items())},
        "errors": told.errors,
        "megabytes_received": round(told.received / 1e6, 1),
        "cpu_ms_per_request": round(1000 * cpu_s / max(len(every), 1), 2),
        "cpu_share": round(cpu_s / seconds, 2),
        "memory_mb": [round(each, 1) for each in memory[::max(1, len(memory) // 12)]] + [round(memory[-1], 1)],
        "load_average": os.getloadavg()[0],
    }


def spread(times: list[float]) -> dict:
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    return {"n": len(times), "p50": round(cuts[49], 4), "p99": round(cuts[98], 4), "max": round(max(times), 4)}


def measure(clients: int, seconds: float, styles: int = 200) -> dict:
    """The report of one measurement. Bounded: at most MOST_CLIENTS for MOST_SECONDS."""
    clients, seconds = min(clients, MOST_CLIENTS), min(seconds, MOST_SECONDS)
    with tempfile.TemporaryDirectory(prefix="sdlora-load-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        os.environ["SDLORA_HOME"] = folder
        run = fill(home, styles)
        with hold(run / "lock"), served(home) as (port, server):
            return asyncio.run(crowd(port, server, clients, seconds, run))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    asked = parser.parse_args()
    print(json.dumps(measure(asked.clients, asked.seconds), indent=1))
