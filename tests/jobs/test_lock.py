"""Locks: one holder, gone with its process."""

import subprocess
import sys
from pathlib import Path

from sdlora.jobs.lock import hold, is_held

ROOT = Path(__file__).parents[2]


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / "a.lock"
    assert not is_held(path) and not path.exists(), "asking makes no file"
    lock = hold(path)
    assert is_held(path) and hold(path, 0.0) is None
    lock.release()
    lock.release()
    assert not is_held(path)
    with hold(path):
        assert is_held(path)
    assert path.exists() and not is_held(path), "a file that is left over locks nothing"


def test_a_killed_holder_holds_nothing(tmp_path):
    code = "import sys, time; from pathlib import Path; from sdlora.jobs.lock import hold; lock = hold(Path(sys.argv[1])); " \
           "print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.lock")], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        assert is_held(tmp_path / "a.lock") and hold(tmp_path / "a.lock", 0.0) is None
        holder.kill()
        holder.wait()
        assert not is_held(tmp_path / "a.lock") and hold(tmp_path / "a.lock")
