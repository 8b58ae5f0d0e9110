"""The demo: a small model from nothing, on this machine, and the story it tells."""
