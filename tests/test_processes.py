"""Processes run this code on this data folder, and what keeps one from starting is a sentence."""

import errno
import os
import subprocess

import pytest

from sdlora import processes
from sdlora.errors import DiskFull, UserError
from sdlora.processes import spawn, with_source


def test_a_spawned_process_runs_this_code_on_this_data_folder(own_home):
    code = "import sdlora.storage; print(sdlora.storage.__file__, sdlora.storage.home())"
    log = own_home / "logs" / "a.log"
    assert spawn(["-c", code], log).wait(60) == 0
    assert log.read_text().split() == [str(processes.SOURCE / "sdlora" / "storage.py"), str(own_home.resolve())]


def test_the_users_own_path_comes_after_ours():
    paths = with_source({"PYTHONPATH": "theirs", "HOME": "h"})
    assert paths == {"PYTHONPATH": os.pathsep.join([str(processes.SOURCE), "theirs"]), "HOME": "h"}


@pytest.mark.parametrize("number, kind, message", [(errno.ENOSPC, DiskFull, "The disk is full"),
                                                   (errno.EAGAIN, UserError, "started")])
def test_what_cannot_be_started_is_a_sentence(own_home, monkeypatch, number, kind, message):
    def refuse(*command, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(kind, match=message):
        spawn(["-c", ""], own_home / "a.log")
