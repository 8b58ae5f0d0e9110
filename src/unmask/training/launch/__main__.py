"""`python -m unmask.training.launch NAME` prints the path of a launch configuration or script (slurm, elastic)."""

from __future__ import annotations

import sys

from unmask.errors import ConfigError
from unmask.training.launch import CONFIGS, SCRIPTS, config_path


def main(argv: list[str]) -> int:
    """Print one path; without a name, list the configurations and scripts."""
    if not argv:
        listed = CONFIGS | {name: f"a script: {path.name}" for name, path in SCRIPTS.items()}
        print("\n".join(f"{name:<8}{purpose}" for name, purpose in listed.items()))
        return 0
    try:
        print(SCRIPTS.get(argv[0]) or config_path(argv[0]))
    except ConfigError as error:
        print(f"unmask: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
