"""Starts the studio: python app.py [--host 127.0.0.1] [--port 7860] [--data FOLDER] [--password WORD] [--library FOLDER].

Knows nothing about the page itself; `sdlora studio` does the same from an installed wheel.
"""

import sys

from sdlora.ui.launch import run

if __name__ == "__main__":
    sys.exit(run())
