"""The launch line and who may open it (reliability.md 6 rules 15 and 17, 8.6 143)."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from sdlora.errors import UserError
from sdlora.ui import launch, middleware

ROOT = Path(__file__).parents[2]


def test_the_launch_line_gives_nothing_away(own_home):
    line = launch.launch_line("127.0.0.1", 7860, own_home)
    assert line["blocked_paths"] == [str(own_home)] and line["allowed_paths"] == []
    for off in ("share", "show_error", "enable_monitoring", "run_history", "ssr_mode", "pwa", "mcp_server"):
        assert line[off] is False, off
    assert line["footer_links"] == [] and line["strict_cors"] is True and line["max_file_size"] == middleware.UPLOAD_BYTES
    gate = line["app_kwargs"]["middleware"][0]
    assert gate.cls is middleware.AccessControl and gate.kwargs == {"host": "127.0.0.1", "password": None}


def test_others_need_a_password():
    launch.check_reach("127.0.0.1", 7860, None)
    launch.check_reach("0.0.0.0", 7860, "long enough")
    for host, password in (("0.0.0.0", None), ("192.168.0.2", ""), ("example.org", None), ("127.0.0.1", "abc"), ("::", None)):
        with pytest.raises(UserError):
            launch.check_reach(host, 7860, password)


@pytest.mark.parametrize("port", ["0", "-1", "99999"])
def test_a_port_that_is_none_is_a_sentence(port, capsys):
    assert launch.run([f"--port={port}"]) == 2
    assert "ports go from 1" in capsys.readouterr().err


def test_folders_of_lora_files_are_shown_before_the_page_opens(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(launch, "start", lambda *_: types.SimpleNamespace(block_thread=lambda: started.append("page")))
    monkeypatch.setattr(launch.scan, "start_background", lambda: started.append("scan"))
    assert launch.run(["--library", str(tmp_path / "gone")]) == 2 and "is not a folder" in capsys.readouterr().err
    (tmp_path / "Lora").mkdir()
    assert launch.run(["--library", str(tmp_path / "Lora")]) == 0 and started == ["scan", "page"]
    assert [folder.path for folder in launch.folders.list_folders()][1:] == [tmp_path / "Lora"]


def test_a_password_file_and_the_environment_open_the_page_to_others(tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(launch, "start", lambda host, port, password, proxy: opened.append((password, proxy)) or
                        types.SimpleNamespace(block_thread=lambda: None))
    monkeypatch.setattr(launch.scan, "start_background", lambda: None)
    (tmp_path / "secret").write_text("from a file\n")
    assert launch.run(["--host", "0.0.0.0", "--password-file", str(tmp_path / "secret"), "--proxy", "10.0.0.1"]) == 0
    monkeypatch.setenv("SDLORA_PASSWORD", "from outside")
    assert launch.run(["--host", "0.0.0.0"]) == 0
    assert opened == [("from a file", ["10.0.0.1"]), ("from outside", [])]
    assert launch.run(["--password-file", str(tmp_path / "none")]) == 2 and "could not be read" in capsys.readouterr().err
    assert launch.run(["--proxy", "proxy.example"]) == 2 and "no address of a proxy" in capsys.readouterr().err


def test_an_open_host_without_password_ends_with_a_sentence(capsys):
    assert launch.run(["--host", "0.0.0.0"]) == 2
    said = capsys.readouterr().err
    assert "no password" in said and "--password" in said and "Traceback" not in said


def test_the_environment_cannot_open_the_page_wider():
    code = ("import os, sys; import sdlora.ui.launch; import gradio;"
            "sys.exit(int(any(n in os.environ for n in ('GRADIO_SHARE', 'GRADIO_ALLOWED_PATHS', 'GRADIO_SERVER_NAME'))"
            " or os.environ['GRADIO_ANALYTICS_ENABLED'] != 'False'))")
    wide = {"GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/", "GRADIO_SERVER_NAME": "0.0.0.0",
            "GRADIO_ANALYTICS_ENABLED": "True", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | wide, cwd=ROOT, timeout=120)
    assert done.returncode == 0
