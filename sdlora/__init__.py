"""sdlora: a studio in the browser where artists teach Stable Diffusion their style."""

__version__ = "0.1.0"
