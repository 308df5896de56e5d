"""`python -m sdlora` is `sdlora`."""

from sdlora.cli.main import run

if __name__ == "__main__":
    run()
