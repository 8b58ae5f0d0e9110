"""`unmask` with FSDP2 on processors, which accelerate allows on accelerators only: for tests, a script for torchrun.

usage: as `unmask`. accelerate takes several processes on CPUs for DDP whatever was asked; here they are told apart.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from unmask.cli.main import main


def allow_fsdp() -> None:
    """Let accelerate's state say FSDP where FSDP was asked for."""
    plain = AcceleratorState.__init__

    def told(self: Any, *args: Any, fsdp_plugin: Any = None, **rest: Any) -> None:
        plain(self, *args, fsdp_plugin=fsdp_plugin, **rest)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = told


if __name__ == "__main__":
    os.environ["ACCELERATE_USE_CPU"] = "true"
    allow_fsdp()
    sys.exit(main(sys.argv[1:]))
