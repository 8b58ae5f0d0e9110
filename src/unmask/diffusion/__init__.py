"""The mathematics of masked diffusion: pure functions and frozen dataclasses over torch and numpy."""
