"""The child process: a file that takes too long, needs too much memory or crashes it costs only itself, and no child is left."""

import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdlora.dataset import child
from sdlora.dataset.picture import open_picture
from sdlora.errors import UserError
from tests.attacks.test_hostile_pictures import chunk, encoded, progressive, swollen_exif


def test_a_picture_that_takes_too_long_costs_only_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "LIMIT_S", 1)
    (tmp_path / "slow.jpg").write_bytes(progressive(190, 6000))  # at least 4 s
    (tmp_path / "fine.png").write_bytes(encoded("PNG"))
    open_picture(tmp_path / "fine.png")
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(UserError, match="slow.jpg takes too long to read"):
            open_picture(tmp_path / "slow.jpg")
        assert time.monotonic() - begun < 4
        assert open_picture(tmp_path / "fine.png").size == (96, 80)


def test_a_decoder_that_crashes_costs_only_that_picture(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    start = child.start

    def killed(module):
        dead = start(module)
        dead.kill()
        return dead

    monkeypatch.setattr(child, "IDLE", {})
    monkeypatch.setattr(child, "start", killed)
    with pytest.raises(UserError, match="a.png could not be read: its decoder crashed"):
        open_picture(tmp_path / "a.png")
    monkeypatch.setattr(child, "start", start)
    assert open_picture(tmp_path / "a.png").size == (96, 80)


def test_a_waiting_child_that_died_is_replaced(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    open_picture(tmp_path / "a.png")
    for process in child.IDLE:
        process.kill()
        process.wait()
    assert open_picture(tmp_path / "a.png").size == (96, 80)


def test_a_child_ends_when_nothing_is_read(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    started, start = [], child.start
    monkeypatch.setattr(child, "IDLE", {})
    monkeypatch.setattr(child, "IDLE_S", 0.05)
    monkeypatch.setattr(child, "start", lambda module: started.append(start(module)) or started[-1])
    open_picture(tmp_path / "a.png")
    assert started[0].wait(10) is not None and not child.IDLE


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_child_ends_with_its_parent(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    code = ("import os, sys; from sdlora.dataset import child, picture; picture.open_picture(sys.argv[1]); "
            "print(next(iter(child.IDLE)).pid, flush=True); os.kill(os.getpid(), 9)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True, timeout=60)
    pid, deadline = int(done.stdout), time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def alive(pid):
    """Whether a process runs; one that ended and that nobody waits for does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_exif_over_many_segments_costs_only_that_picture(tmp_path):
    exif = swollen_exif(60_000, 2**18)
    parts = [exif[at:at + 65_000] for at in range(0, len(exif), 65_000)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts)
    data = encoded("JPEG")
    (tmp_path / "a.jpg").write_bytes(data[:2] + segments + data[20:])  # without JFIF, Pillow looks for the resolution in EXIF
    with pytest.raises(UserError, match="a.jpg"):
        open_picture(tmp_path / "a.jpg")


def test_millions_of_chunks_end_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "LIMIT_S", 2)
    data = encoded("PNG")
    (tmp_path / "a.png").write_bytes(data[:33] + chunk(b"tEXt", b"") * 3_000_000 + data[33:])
    begun = time.monotonic()
    try:
        open_picture(tmp_path / "a.png")
    except UserError as refused:
        assert "takes too long" in refused.message
    assert time.monotonic() - begun < 5
