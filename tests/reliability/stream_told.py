"""`unmask` that notes what each update was fed: for tests, a script for torchrun.

usage: as `unmask`. Writes a file per process into the folder that STREAM_TOLD names: a line for each update, a hash
of what each visit saw: its number, its row and every token it was given, masks among them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from unmask.cli.main import main
from unmask.training.trainer import DiffusionTrainer


def seen(item: Any) -> dict[int, str]:
    """Visit number -> hash, of a noised batch."""
    batch, found = item.batch, {}
    for place, visit in enumerate(batch.keys.visit_S.tolist()):
        fed = item.noise.xt_BL[batch.sample_BL == place].numpy().tobytes()
        row = int(batch.keys.row_S[place])
        found[visit] = hashlib.sha256(f"{visit} {row} ".encode() + fed).hexdigest()[:16]
    return found


class Telling(DiffusionTrainer):
    def get_batch_samples(self, *args: Any) -> Any:
        batches, count = super().get_batch_samples(*args)
        visits = {visit: told for item in batches for visit, told in seen(item).items()}
        file = Path(os.environ["STREAM_TOLD"]) / f"{os.environ.get('RANK', '0')}-{os.getpid()}.jsonl"
        with file.open("a") as open_file:
            open_file.write(json.dumps({"update": self.state.global_step, "visits": visits}) + "\n")
        return batches, count


if __name__ == "__main__":
    import unmask.training.run as run

    run.DiffusionTrainer = Telling
    sys.exit(main(sys.argv[1:]))
