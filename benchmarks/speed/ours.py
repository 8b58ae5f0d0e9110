"""Our side of the timing: reads jobs as lines of JSON, answers with tokens, CPU seconds and counts.

With the word `compile` the models' layers are compiled.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch

import unmask
from unmask.errors import UnmaskError


def answer(job: dict[str, Any], lm: unmask.DiffusionLM) -> dict[str, Any]:
    """Decode once."""
    started = time.process_time()
    outs = lm.generate(job["prompts"], **job["ours"])
    seconds = time.process_time() - started
    return {
        "seconds": seconds,
        "tokens": [out.token_ids for out in outs],
        "forwards": max(out.stats.forwards.total for out in outs),
        "positions": sum(out.stats.positions for out in outs),
    }


def main() -> None:
    torch.set_num_threads(1)
    models: dict[tuple[str, str], unmask.DiffusionLM] = {}
    for line in sys.stdin:
        job = json.loads(line)
        key = job["folder"], job["dtype"]
        if key not in models:
            models.clear()
            models[key] = unmask.load(job["folder"], dtype=job["dtype"], device="cpu", compile="compile" in sys.argv)
        try:
            found = answer(job, models[key])
        except UnmaskError as error:
            found = {"error": str(error)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
