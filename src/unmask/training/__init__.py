"""Training runs: their settings, their loop, their files."""

import logging

# peft imports bitsandbytes where it is installed, which tells every run on a CPU that it lacks a package
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
