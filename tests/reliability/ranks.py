"""Runs of `unmask` on several processes, one after the other: a script, so that all of them import torch once.

usage: ranks.py JOBS.json. A job is {"output": a folder, "engine": ..., "ranks": ..., "argv": of unmask, "after": where
to go on from, or null, "broken": a rank whose second update is no number, or null}. Forks before torch has computed
anything, and sets what torchrun would. Writes OUTPUT.RANK.log; prints the exit status of each rank of each job as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from fsdp_on_cpu import allow_fsdp
from ports import free_port

import unmask.training.run  # noqa: F401
from unmask.cli.main import main
from unmask.training.trainer import DiffusionTrainer


def forked(job: dict[str, Any], rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    log = os.open(f"{job['output']}.{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if job["ranks"] > 1:
        several = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["ranks"], "LOCAL_WORLD_SIZE": job["ranks"]}
        several |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in several.items()})
    if job["engine"] == "fsdp2":
        os.environ["ACCELERATE_USE_CPU"] = "true"
        allow_fsdp()
    if job["broken"] == rank:
        break_an_update()
    status = 1
    try:
        status = main(job["argv"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def break_an_update() -> None:
    plain = DiffusionTrainer.compute_loss

    def broken(self: DiffusionTrainer, *args: Any, **rest: Any) -> Any:
        return plain(self, *args, **rest) * (float("nan") if self.state.global_step == 1 else 1.0)

    DiffusionTrainer.compute_loss = broken


def run(job: dict[str, Any]) -> list[int]:
    if job["after"]:
        shutil.copytree(job["after"], job["output"])
    port = free_port()
    children = [forked(job, rank, port) for rank in range(job["ranks"])]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    print(json.dumps([run(job) for job in json.loads(Path(sys.argv[1]).read_text())]))
