"""`python -m unmask VERB`, the form that `accelerate launch` and `torchrun` start."""

import sys

from unmask.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
