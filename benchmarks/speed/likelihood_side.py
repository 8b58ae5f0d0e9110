"""A side of the timing of likelihoods: reads jobs as lines of JSON, answers with values, errors and CPU seconds.

`likelihood_side.py` is ours; `likelihood_side.py CHECKOUT`, run by its own Python, is ZHZisZZ/dllm's evaluation.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

Pairs = list[tuple[list[int], list[int]]]
Answer = Callable[[dict[str, Any], Pairs], list[float]]


def ours(folder: str) -> Answer:
    """Our estimates."""
    import unmask

    lm = unmask.load(folder, dtype="float32", device="cpu")

    def answer(job: dict[str, Any], pairs: Pairs) -> list[float]:
        settings = {name: job[name] for name in ("samples", "seed", "batch_size")}
        return [estimate.mean for estimate in lm.log_likelihoods(pairs, **settings)]

    return answer


def theirs(folder: str) -> Answer:
    """Those of dLLM's harness, without the harness: one request after the other, as it does it."""
    import dllm_side
    from dllm.core.eval.mdlm import MDLMEvalHarness

    model = dllm_side.load({"folder": folder, "dtype": "float32", "peer": {"sampler": "mdlm"}})

    class OnCpu(MDLMEvalHarness):
        device = "cpu"

    harness = object.__new__(OnCpu)
    harness.model, harness.mask_id = model, model.config.mask_token_id

    def answer(job: dict[str, Any], pairs: Pairs) -> list[float]:
        torch.manual_seed(job["seed"])
        harness.mc_num, harness.batch_size = job["samples"], min(job["batch_size"], job["samples"])
        return [harness._get_loglikelihood(*(torch.tensor(ids, dtype=torch.long) for ids in pair)) for pair in pairs]

    return answer


def main() -> None:
    make = ours
    if len(sys.argv) > 1:
        sys.path.insert(0, sys.argv[1])
        make = theirs
    # what imports say belongs to nobody's answer
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    models: dict[str, Answer] = {}
    for line in sys.stdin:
        job = json.loads(line)
        if job["folder"] not in models:
            models = {job["folder"]: make(job["folder"])}
        started = time.process_time()
        values = models[job["folder"]](job, job["pairs"])
        print(json.dumps({"values": values, "seconds": time.process_time() - started}), file=answers, flush=True)


if __name__ == "__main__":
    main()
