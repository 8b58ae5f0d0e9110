"""Where the time goes, at a pace that the tests set, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from unmask.training import fed as fed_module
from unmask.training import meter as meter_module
from unmask.training import run as run_module
from unmask.training.arguments import Settings
from unmask.training.library import library_arguments
from unmask.training.meter import PARTS, Clock, Meter, brief
from unmask.training.peak import Peak, of_card, peak_of
from unmask.training.report import read_report
from unmask.training.run import train
from unmask.training.work import Cost, Work

Make = Callable[..., Settings]
CPU = torch.device("cpu")


class Time:
    """A clock that goes on only when it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(meter_module, "time", fake)
    return fake


def spend(clock: Clock, time: Time, *parts: tuple[str, float]) -> None:
    for part, seconds in parts:
        clock.enter(part)
        time.now += seconds


def test_every_second_belongs_to_one_part(time: Time) -> None:
    clock = Clock(CPU)
    time.now += 50  # loading, before the first update
    clock.pause(5)
    for _ in range(2):
        spend(clock, time, ("data", 1), ("forward", 2), ("backward", 4), ("optimizer", 0.5), ("other", 3))
    clock.pause(2.5)  # of evaluation, within the last three
    assert clock.take() == {"data": 2, "forward": 4, "backward": 8, "optimizer": 1, "other": 3.5}
    time.now += 1
    assert clock.take() == {**dict.fromkeys(PARTS, 0.0), "other": 1}


def test_figures_are_those_of_the_time(time: Time) -> None:
    meter = Meter(CPU, Cost(token=10, prediction=100, pair=1), Peak(1000.0, "told"))
    spend(meter.clock, time, ("data", 1), ("forward", 3), ("backward", 5), ("optimizer", 1))
    meter.count(40, Work(positions=60, tokens=80, predicted=12, pairs=600))
    figures = meter.report()
    assert (figures["tokens_per_second"], figures["padded_tokens_per_second"]) == (4, 6)
    assert [figures[f"time_{part}"] for part in PARTS] == [10, 30, 50, 10, 0]
    # 800 + 1200 + 600 operations in ten seconds, of ten thousand
    assert figures["mfu"] == pytest.approx(26)
    assert brief(figures).startswith("4 tokens/s  mfu 26 %  data/fwd/bwd/opt 10/30/50/10 %  ")
    time.now += 1
    assert meter.report()["tokens_per_second"] == 0


def test_the_peak_is_known_told_or_measured() -> None:
    assert of_card("NVIDIA H100 80GB HBM3", torch.bfloat16) == 989.0
    assert of_card("NVIDIA H100 PCIe", torch.bfloat16) == 756.0
    assert of_card("NVIDIA H100 80GB HBM3", torch.float32) == 67.0
    assert of_card("NVIDIA A100-SXM4-80GB", torch.float32, tf32=True) == 156.0
    assert of_card("NVIDIA L4", torch.float16) == 121.0
    assert of_card("NVIDIA L40S", torch.bfloat16) == 362.0
    assert peak_of(CPU, torch.float32, 2.5) == Peak(2.5e12, "2.5 TFLOP/s, as told by peak_tflops")
    measured = peak_of(CPU, torch.float32)
    assert measured.operations is not None and measured.operations > 1e8
    assert measured.source.endswith("measured by a product of float32 matrices")
    assert peak_of(torch.device("mps"), torch.float32).operations is None


# names as NVIDIA's and AMD's drivers give them
@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA GH200 480GB", 989.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("A100-SXM4-40GB", 312.0),
        ("NVIDIA A40", 149.7),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", 71.0),
        ("AMD Instinct MI300X", 1307.0),
        # others, whose names have a listed one's letters or words in them
        ("NVIDIA RTX A1000", None),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA RTX A400", None),
        ("NVIDIA RTX A3000 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("Voodoo 2", None),
    ],
)
def test_a_card_is_known_by_its_whole_name(name: str, rate: float | None) -> None:
    assert of_card(name, torch.bfloat16) == rate


def test_tf32_is_told_to_all_who_ask(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.training_args

    monkeypatch.setattr(transformers.training_args, "is_torch_tf32_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.backends, "fp32_precision", "none")  # which it is, and is again at the end
    try:
        for asked, rate, word in ((True, 494e12, "high"), (False, 67e12, "highest")):
            library_arguments(settings(tf32=asked), updates=1, evaluate=False)
            assert peak_of(torch.device("cuda"), torch.float32).operations == rate
            assert torch.get_float32_matmul_precision() == word  # which raises where PyTorch was told half
            assert torch.backends.cuda.matmul.allow_tf32 is asked
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("objective", ["masked", "block"])
def test_a_run_reports_it_everywhere(settings: Make, tmp_path: Path, objective: str) -> None:
    told = settings(report=True, sample_prompts=(), peak_tflops=1.0, objective=objective, max_steps=4, logging_steps=2)
    with (tmp_path / "screen").open("w") as screen:
        train(told, verb="sft", console=Console(file=screen, width=200))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert sum(line[f"time_{part}"] for part in PARTS) == pytest.approx(100)
        assert all(line[f"time_{part}"] > 0 for part in PARTS)
        assert 0 < line["tokens_per_second"] <= line["padded_tokens_per_second"]
        assert 0 < line["mfu"] < 100 and line["peak_memory"] > 2**20
    shown = (tmp_path / "screen").read_text()
    assert shown.count("data/fwd/bwd/opt ") == 2 and "mfu " in shown
    page = read_report(tmp_path / "run" / "report.html")
    panels = {title: dict(rows) for title, rows in page["panels"]}
    assert panels["Machine and versions"]["peak"] == "1 TFLOP/s, as told by peak_tflops"
    assert page["history"] == lines


def test_waiting_for_the_loader_is_data(settings: Make, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that takes seven seconds a batch, a forward of two, and nothing else takes any time."""
    loading, objective_of = fed_module.train_loader, run_module.objective_of

    def slow_loader(*args: Any) -> Any:
        for batch in loading(*args):
            time.now += 7
            yield batch

    def slow_objective(*args: Any, **more: Any) -> Any:
        made = objective_of(*args, **more)

        class Slow(type(made)):
            def __call__(self, *inputs: Any) -> Any:
                time.now += 2
                return super().__call__(*inputs)

        return Slow(**{name: getattr(made, name) for name in made.__dataclass_fields__})

    monkeypatch.setattr(fed_module, "train_loader", lambda *args: list_of(slow_loader(*args), loading(*args)))
    monkeypatch.setattr(run_module, "objective_of", slow_objective)
    run = train(settings(gradient_accumulation_steps=2, per_device_train_batch_size=4, max_steps=2), verb="sft")
    for line in run.history:
        assert line["time_data"] == pytest.approx(100 * 14 / 18)
        assert line["time_forward"] == pytest.approx(100 * 4 / 18)


def list_of(batches: Any, like: Any) -> Any:
    """An iterable that is as long as a loader."""

    class Loader:
        def __iter__(self) -> Any:
            return iter(batches)

        def __len__(self) -> int:
            return len(like)

    return Loader()
