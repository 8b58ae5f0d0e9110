"""Processes and machines that are lost: those left go on from a checkpoint, and see what they would have seen."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.reliability.conftest import IS_WHOLE
from tests.reliability.ports import free_port
from tests.reliability.test_engines import difference
from unmask.training.launch import ELASTIC

SCRIPT = Path(__file__).with_name("stream_told.py")
Stream = dict[tuple[int, int], str]


def argv(output: Path, model: Path, data: Path, updates: int) -> list[str]:
    """Updates of four samples, one per forward; plain descent, so that weights can be compared."""
    told = ["sft", "--model_name_or_path", str(model), "--dataset_args", str(data), "--max_length", "64"]
    told += ["--output_dir", str(output), "--max_steps", str(updates), "--save_steps", "2", "--save_total_limit", "2"]
    told += ["--per_device_train_batch_size", "1", "--optim", "sgd", "--learning_rate", "0.05", "--report", "false"]
    return [*told, "--lr_scheduler_type", "constant", "--warmup_steps", "0", "--seed", "3", "--logging_steps", "1"]


def accumulation(ranks: int) -> list[str]:
    return ["--gradient_accumulation_steps", str(4 // ranks)]


def environment(told: Path) -> dict[str, str]:
    told.mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # as launch/elastic.sh sets it, which says why
    fresh = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return {**os.environ, **fresh, "OMP_NUM_THREADS": "1", "STREAM_TOLD": str(told), "PATH": path}


def alone(folder: Path, words: list[str]) -> Stream:
    """What one process sees that nobody stops."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], env=environment(folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return stream(folder)


def stream(told: Path) -> Stream:
    """(update, visit) -> hash. What was seen again after a loss has to be what was seen before it."""
    found: Stream = {}
    for file in told.iterdir():
        for line in file.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # a line that a kill cut off
                seen = json.loads(line)
                for visit, each in seen["visits"].items():
                    assert found.setdefault((seen["update"], int(visit)), each) == each
    return found


@contextmanager
def started(command: list[str], told: Path, log: Path, set_here: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A launcher, which takes its processes with it."""
    with log.open("wb") as file:
        launcher = subprocess.Popen(command, env=set_here, stdout=file, stderr=file)
    try:
        yield launcher
    finally:
        for process in [*processes_of(launcher), psutil.Process()][:-1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        launcher.kill()
        launcher.wait()


def processes_of(launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(launcher.pid).children()
    return []


def updates_told(told: Path, pid: int) -> int:
    return sum(len(file.read_text().splitlines()) for file in told.glob(f"*-{pid}.jsonl"))


def wait_for_meeting_place(launcher: subprocess.Popen[bytes], port: int) -> None:
    def heard() -> set[int]:
        return {each.laddr.port for each in psutil.Process(launcher.pid).net_connections() if each.status == "LISTEN"}

    while port not in heard():
        assert launcher.poll() is None
        time.sleep(0.1)


def kill_some(launcher: subprocess.Popen[bytes], told: Path, kills: int, chance: random.Random) -> int:
    """SIGKILL a rank some updates and milliseconds after it began, or while all are starting; again and again."""
    done = 0
    while done < kills and launcher.poll() is None:
        ranks = processes_of(launcher)
        if len(ranks) < 2:
            time.sleep(0.01)
            continue
        victim, wanted = chance.choice(ranks), chance.randrange(1, 8)
        hasty = time.monotonic() + (chance.random() * 6 if chance.random() < 0.15 else 120)
        while launcher.poll() is None and updates_told(told, victim.pid) < wanted and time.monotonic() < hasty:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.06)
        with suppress(psutil.NoSuchProcess):
            victim.kill()
            done += 1
        psutil.wait_procs(ranks, timeout=60)
    return done


@pytest.mark.timeout(2400)
@pytest.mark.skipif(not IS_WHOLE, reason="whole in make reliability: each start imports torch again")
def test_lost_processes(
    checkpoint: Path, conversations: Path, tmp_path: Path, count: Callable[[int, int], int], figure: Callable
) -> None:
    kills = count(2, 20)
    updates = 12 * kills
    reference = alone(tmp_path / "told-1", argv(tmp_path / "one", checkpoint, conversations, updates) + accumulation(1))
    told, log = tmp_path / "told-2", tmp_path / "two.log"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--max_restarts", str(kills + 5), str(SCRIPT)]
    words = argv(tmp_path / "two", checkpoint, conversations, updates) + accumulation(2)
    with started([*command, *words], told, log, environment(told)) as launcher:
        killed = kill_some(launcher, told, kills, random.Random(7))
        status = launcher.wait()
    assert status == 0, log.read_text()[-3000:]
    assert killed == kills
    assert stream(told) == reference
    assert len(reference) == 4 * updates
    apart = difference(tmp_path / "two" / "checkpoint-final", tmp_path / "one" / "checkpoint-final")
    assert apart < 1e-4
    figure(f"R12 {killed} of {kills} lost processes: the run ended with the stream of one process that nobody stopped")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not IS_WHOLE, reason="whole in make reliability")
def test_a_lost_machine(checkpoint: Path, conversations: Path, tmp_path: Path, figure: Callable) -> None:
    updates = 150
    reference = alone(tmp_path / "told-1", argv(tmp_path / "one", checkpoint, conversations, updates) + accumulation(1))
    told = tmp_path / "told-2"
    words = argv(tmp_path / "two", checkpoint, conversations, updates)
    script = tmp_path / "elastic.sh"
    script.write_text(ELASTIC.read_text().replace("python -m unmask", f'"{sys.executable}" "{SCRIPT}"'))
    port = free_port()
    command = ["bash", str(script), "--nodes", "1:2", "--gpus", "1", "--meet", f"localhost:{port}"]
    command += ["--samples", "4", *words]
    set_here = environment(told) | {"LOGLEVEL": "INFO"}
    with started(command, told, tmp_path / "a.log", set_here) as stays:
        wait_for_meeting_place(stays, port)  # or the one that is lost would keep it
        with started(command, told, tmp_path / "b.log", set_here) as goes:
            while not all(updates_told(told, rank.pid) > 5 for rank in processes_of(goes)) or not processes_of(goes):
                assert goes.poll() is None and stays.poll() is None, (tmp_path / "a.log").read_text()[-3000:]
                time.sleep(0.05)
            ranks = processes_of(goes)
            os.kill(goes.pid, signal.SIGKILL)
            for rank in ranks:
                rank.kill()
        with suppress(subprocess.TimeoutExpired):  # the log says where it stands
            stays.wait(timeout=400)
    log = (tmp_path / "a.log").read_text()
    assert stays.returncode == 0, log[-6000:]
    assert "engine: DDP, 2 processes" in log + (tmp_path / "b.log").read_text()
    assert "engine: one process" in log
    assert stream(told) == reference
    figure("R12 two machines, one lost: the other went on alone and ended with the same stream")
