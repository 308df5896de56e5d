"""Start the studio: one safe launch line for `python app.py` and `sdlora studio`."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from sdlora import storage
from sdlora.errors import UserError
from sdlora.jobs.worker import announce_web, ensure_worker
from sdlora.library import folders, scan
from sdlora.ui import drawing, middleware, polling, words
from sdlora.ui.page import build
from sdlora.ui.password import LEAST, MOST, Password, choose
from sdlora.ui.runs import run_view
from sdlora.ui.theme import CSS, HEAD, theme
from sdlora.ui.validation import silent

SCRATCH = "sdlora-page-"
MOST_TABS = 1000  # whose state Gradio keeps
ANSWERS = {
    "run": silent(run_view.live_progress),
    "draw": silent(drawing.progress_of),
    "shelf": silent(lambda _: polling.shelf_version()),
}


def main(
    host: str = "127.0.0.1",
    port: int = 7860,
    data: str | None = None,
    password: str | None = None,
    password_file: str | None = None,
    library: Sequence[str] = (),
    proxy: Sequence[str] = (),
) -> None:
    """Serve the studio until it is interrupted.

    password: else the first line of `password_file`, else SDLORA_PASSWORD. library: folders of LoRA files to show, read in place.
    proxy: addresses of reverse proxies whose X-Forwarded-For is believed.
    Raises UserError for an open host without password, a taken port, or a folder that cannot be shown.
    """
    if data:
        os.environ["SDLORA_HOME"] = data
    password = choose(password, password_file)
    check_reach(host, port, password, proxy)
    for folder in library:
        folders.add_folder(folder)
    scan.start_background()
    scratch = private_scratch()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        start(host, port, password, proxy).block_thread()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def start(host: str, port: int, password: str | None, proxy: Sequence[str] = ()) -> gr.Blocks:
    """Start serving and return at once; the returned Blocks has close(). Prints who can reach the page."""
    check_reach(host, port, password, proxy)
    middleware.restrict_gradio()
    polling.lighten_gradio()
    login = Password(password, proxy) if password else None
    home = storage.home()
    announce_web()
    ensure_worker()
    demo = build()
    demo.queue(max_size=64, api_open=False)
    try:
        demo.launch(**launch_line(host, port, home, login), prevent_thread_lock=True)
    except OSError as error:
        raise UserError(words.PORT_TAKEN.format(port=port), words.PORT_HINT.format(port=port + 1)) from error
    demo.server.config.http_protocol_class = middleware.DeadlineProtocol
    print_line((words.REACH_LOCAL if middleware.is_loopback(host) else words.REACH_OPEN).format(host=host, port=port))
    return demo


def launch_line(host: str, port: int, home: Path, password: Password | None = None) -> dict[str, Any]:
    """Return every argument of launch() that decides what the page gives away (tests hold it to this)."""
    return {
        "server_name": host,
        "server_port": port,
        "auth": password.check if password else None,
        "share": False,
        "inbrowser": False,
        "quiet": True,
        "state_session_capacity": MOST_TABS,
        "max_file_size": middleware.UPLOAD_BYTES,
        "allowed_paths": [],
        "blocked_paths": [str(home)],
        "show_error": False,
        "enable_monitoring": False,
        "run_history": False,
        "footer_links": [],
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "strict_cors": True,
        "theme": theme(),
        "css": CSS,
        "head": HEAD,
        "app_kwargs": {
            "middleware": [Middleware(middleware.AccessControl, host=host, password=password),
                           Middleware(polling.Polling, answers=ANSWERS, file=run_view.download_file)],
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
        },
    }


def check_reach(host: str, port: int, password: str | None, proxy: Sequence[str] = ()) -> None:
    """Raise UserError for a bad address or port, and for a host that others can reach without a good password."""
    for address in proxy:
        try:
            ip_address(address)
        except ValueError as error:
            raise UserError(words.BAD_PROXY.format(proxy=address), words.BAD_PROXY_HINT) from error
    if password is not None and not LEAST <= len(password) <= MOST:
        raise UserError(words.PASSWORD_SHORT, words.PASSWORD_HINT)
    if not 1 <= port <= 65535:
        raise UserError(words.BAD_PORT.format(port=port), words.PORT_HINT.format(port=7860))
    if not middleware.is_loopback(host) and not password:
        raise UserError(words.NEEDS_PASSWORD.format(host=host), words.PASSWORD_HINT)


def private_scratch() -> Path:
    """Return a folder only we can read for uploads and downloads in transit; those of dead processes are swept after two days."""
    for old in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        if time.time() - old.stat().st_mtime > 2 * 86400:
            shutil.rmtree(old, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH))
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)
    return scratch


def print_line(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


def run(arguments: list[str] | None = None) -> int:
    """Run `python app.py`; return the exit code (0 stopped by the artist, 2 a mistake of theirs)."""
    parser = argparse.ArgumentParser(prog="app.py", description=words.ABOUT)
    parser.add_argument("--host", default="127.0.0.1", help=words.HELP_HOST)
    parser.add_argument("--port", type=int, default=7860, help=words.HELP_PORT)
    parser.add_argument("--data", help=words.HELP_DATA)
    parser.add_argument("--password", help=words.HELP_PASSWORD)
    parser.add_argument("--password-file", metavar="FILE", help=words.HELP_PASSWORD_FILE)
    parser.add_argument("--proxy", metavar="ADDRESS", action="append", default=[], help=words.HELP_PROXY)
    parser.add_argument("--library", metavar="FOLDER", action="append", default=[], help=words.HELP_LIBRARY)
    try:
        main(**vars(parser.parse_args(arguments)))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 0
    return 0
