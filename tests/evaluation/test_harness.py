"""lm-evaluation-harness over tiny models: its tasks on local files, their figures, going on, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import unmask
from tests.tiny import write_checkpoint
from unmask.cli.main import main
from unmask.errors import ConfigError
from unmask.models.adapters import LoraSettings, attach_lora

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

from unmask.evaluation import harness_tasks
from unmask.evaluation.harness_tasks import find_tasks, load_tasks
from unmask.evaluation.lm_eval import HarnessLM
from unmask.evaluation.requests import Answers, Request

ARC = [
    {"query": "Question: Red?", "choices": ["yes", "no", "maybe"], "gold": 1},
    {"query": "Question: Blue?", "choices": ["no", "yes"], "gold": 0},
    {"query": "Question: A third one?", "choices": ["a", "bb", "ccc", "dddd"], "gold": 3},
]
LAMBADA = [{"context": "red blue red", "continuation": "blue"}, {"context": "one two", "continuation": "three"}]
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), max_sequence_length=1024)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, rows in (("mc/arc_easy.jsonl", ARC), ("mc/lambada_openai.jsonl", LAMBADA)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "gsm8k").mkdir()
    for split, count in (("train", 3), ("test", 2)):
        rows = [{"question": f"{split} {number}?", "answer": f"Easy. #### {number}"} for number in range(count)]
        (folder / f"gsm8k/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def run(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run tasks; the results as JSON."""

    def evaluate(tasks: str, *more: str) -> dict[str, Any]:
        words = ["eval", "--tasks", tasks, "--model_name_or_path", str(model), "--data_dir", str(data)]
        assert main([*words, "--samples", "3", "--device", "cpu", "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)

    return evaluate


def test_accuracies_are_those_of_the_likelihoods(run: Run, model: Path) -> None:
    """The harness' rule for multiple choice, by hand: the likeliest answer, or the likeliest per character."""
    lm = unmask.load(model, device="cpu")
    right, right_per_letter = 0, 0
    for row in ARC:
        prompt = f"{row['query']}\nAnswer:"
        found = [lm.log_likelihood(prompt, f" {choice}", samples=3) for choice in row["choices"]]
        per_letter = [value / len(choice) for value, choice in zip(found, row["choices"], strict=True)]
        right += found.index(max(found)) == row["gold"]
        right_per_letter += per_letter.index(max(per_letter)) == row["gold"]
    found = run("arc_easy")
    metrics = found["metrics"]
    assert metrics["arc_easy acc"]["mean"] == pytest.approx(right / 3)
    assert metrics["arc_easy acc_norm"]["mean"] == pytest.approx(right_per_letter / 3)
    assert metrics["arc_easy acc"]["count"] == 3 and metrics["arc_easy acc"]["stderr"] is not None
    assert found["settings"]["tasks"] == {"arc_easy": {"version": 1.0, "num_fewshot": 0, "of": 3}}
    assert (found["model"]["family"], found["task"]) == ("llada", "arc_easy")


def test_perplexity_is_that_of_the_likelihoods(run: Run, model: Path) -> None:
    lm = unmask.load(model, device="cpu")
    values = [lm.log_likelihood(row["context"], f" {row['continuation']}", samples=3) for row in LAMBADA]
    found = run("lambada")
    assert found["metrics"]["lambada_openai perplexity"]["mean"] == pytest.approx(
        math.exp(-sum(values) / len(values)), rel=1e-4
    )
    assert any("1 of 2 parts are not in" in note and "lambada_standard" in note for note in found["notes"])


def test_an_adapter_answers_unmerged(run: Run, model: Path, tmp_path: Path) -> None:
    lm = unmask.load(model, device="cpu")
    before = lm.log_likelihood("red blue red", " blue", samples=3)
    attach_lora(lm.model, LoraSettings(r=2))
    for name, weight in lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=2.0, generator=torch.Generator().manual_seed(0))
    lm.save(tmp_path / "adapter")
    values = [lm.log_likelihood(row["context"], f" {row['continuation']}", samples=3) for row in LAMBADA]
    run("lambada_openai", "--adapter", str(tmp_path / "adapter"), "--output_path", str(tmp_path / "out"))
    cases = [json.loads(line) for line in (tmp_path / "out/cases.jsonl").read_text().splitlines()]
    assert [case["metrics"]["log_likelihood"] for case in cases] == pytest.approx(values, rel=1e-4)
    assert abs(values[0] - before) > 0.1


def test_answers_are_kept_and_an_interrupted_run_ends_as_a_whole_one(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--gen_kwargs", "gen_length=4,temperature=1.0", "--num_fewshot", "1", "--batch_size", "auto:4"]
    whole = run("gsm8k,arc_easy", *more, "--output_path", str(tmp_path / "whole"), "--log_samples")
    lines = (tmp_path / "whole/answers-0.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 2 + 9
    half = tmp_path / "half/answers-0.jsonl"
    half.parent.mkdir()
    half.write_bytes(b"".join(lines[1:6]) + lines[6][:20])
    again = run("gsm8k,arc_easy", *more, "--output_path", str(tmp_path / "half"))
    assert again["metrics"] == whole["metrics"]
    assert (tmp_path / "half/cases.jsonl").read_bytes() == (tmp_path / "whole/cases.jsonl").read_bytes()
    assert sorted(half.read_bytes().splitlines(keepends=True)) == sorted(lines)
    samples = next((tmp_path / "whole").rglob("samples_gsm8k_*.jsonl")).read_text().splitlines()
    assert [json.loads(line)["doc"]["question"] for line in samples] == ["test 0?", "test 1?"] * 2
    assert next((tmp_path / "whole").rglob("results_*.json")).is_file()
    assert json.loads((tmp_path / "whole/results.json").read_text()) == whole
    assert "| gsm8k exact_match (strict-match) | 0.0000 |" in (tmp_path / "whole/results.md").read_text()
    cases = [json.loads(line) for line in (tmp_path / "whole/cases.jsonl").read_text().splitlines()]
    names = {"exact_match (strict-match)", "exact_match (flexible-extract)"}
    assert [set(case["metrics"]) for case in cases] == [names] * 2 + [{"acc", "acc_norm"}] * 3
    mean = sum(case["metrics"]["acc"] for case in cases[2:]) / 3
    assert mean == pytest.approx(whole["metrics"]["arc_easy acc"]["mean"])


# choices of one length, so that rows and forwards are shared between them, and between questions
SHARED = [
    {"query": f"Question: {'Is it so? ' * (number % 3)}{number}", "choices": ["oak", "elm", "fir"], "gold": number % 3}
    for number in range(6)
]


def told_in(folder: Path) -> dict[str, Any]:
    """What a run has found, without times and the commit, which may come between two runs."""
    found = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in found.items() if name not in ("at", "commit", "seconds")}


def forked(words: list[str], rank: int = 0, size: int = 1, port: int = 0, *, waits_after: int | None = None) -> int:
    """The command in another process, whose number is returned; importing everything anew would take seconds.

    With `waits_after` so many answers it does nothing more, so that it is killed there however fast it is.
    """
    child = os.fork()
    if child == 0:
        keep, kept = Answers.add, itertools.count(1)

        def add(*given: Any) -> None:
            keep(*given)
            if next(kept) == waits_after:
                signal.pause()

        Answers.add = add
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os._exit(main(words))
    return child


@pytest.mark.parametrize("settle", [[], ["--settle", "1"]])
def test_a_killed_run_and_two_processes_end_with_the_bytes_of_a_whole_run(
    settle: list[str], model: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data/mc/arc_easy.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text("".join(json.dumps(row) + "\n" for row in SHARED))
    words = ["eval", "--tasks", "arc_easy", "--model_name_or_path", str(model), "--data_dir", str(tmp_path / "data")]
    words += ["--samples", "16", "--batch_size", "4", "--device", "cpu", *settle, "--output_path"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    notes = told_in(tmp_path / "whole")["notes"]
    assert any("until the best was settled" in note and "of 16 at most" in note for note in notes) == bool(settle)
    file = tmp_path / "killed/answers-0.jsonl"
    child = forked([*words, str(file.parent)], waits_after=7)
    while not file.exists() or file.read_bytes().count(b"\n") < 7:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert file.read_bytes().count(b"\n") == 7
    assert main([*words, str(file.parent)]) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [forked([*words, str(tmp_path / "two")], rank, 2, port) for rank in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert all((tmp_path / f"two/answers-{rank}.jsonl").stat().st_size for rank in range(2))
    for name in ("killed", "two"):
        assert (tmp_path / name / "cases.jsonl").read_bytes() == (tmp_path / "whole/cases.jsonl").read_bytes()
        assert told_in(tmp_path / name) == told_in(tmp_path / "whole")


def test_prompts_go_through_the_chat_template(run: Run, tmp_path: Path) -> None:
    run(
        "gsm8k",
        *["--gen_kwargs", "gen_length=2", "--num_fewshot", "1", "--apply_chat_template", "--limit", "1"],
        *["--output_path", str(tmp_path), "--log_samples", "--system_instruction", "Be brief."],
    )
    (sample, _) = next(tmp_path.rglob("samples_gsm8k_*.jsonl")).read_text().splitlines()
    prompt = json.loads(sample)["arguments"]["gen_args_0"]["arg_0"]
    assert prompt.count("<|start_header_id|>user") == 2 and prompt.count("<|start_header_id|>assistant") == 2
    assert prompt.count("Be brief.") == 1 and prompt.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


def test_the_tutorials_command_runs_with_its_string_as_it_is(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "cmmlu/test").mkdir(parents=True)
    (data / "cmmlu/test/arts.csv").write_text(",Question,A,B,C,D,Answer\n0,哪个？,一,二,三,四,B\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").symlink_to(model)
    words = ["--tasks", "cmmlu", "--model", "llada", "--apply_chat_template", "--output_path", "OUT", "--log_samples"]
    words += ["--max_batch_size", "4", "--model_args"]
    words += ["pretrained=DIR,is_check_greedy=False,mc_num=1,max_length=1024,steps=256,block_size=64,cfg=0.0"]
    assert main(["eval", *words, "--data_dir", str(data), "--device", "cpu"]) == 0
    found = json.loads((tmp_path / "OUT/results.json").read_text())
    assert list(found["metrics"]) == ["cmmlu acc", "cmmlu acc_norm", "cmmlu_arts acc", "cmmlu_arts acc_norm"]
    assert found["metrics"]["cmmlu acc"]["mean"] in (0, 1) and found["metrics"]["cmmlu acc"]["count"] == 1
    settings = found["settings"]
    assert (settings["samples"], settings["max_length"], settings["batch_size"]) == (1, 1024, 4)
    assert settings["generation"] == {"steps": 256, "block_size": 64, "guidance_scale": 0.0}
    assert "66 of 67 parts are not in" in capsys.readouterr().err


def test_programs_are_run_only_with_consent(
    run: Run, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"task_id": "x/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1"}
    row["test"] = "def check(candidate):\n    assert candidate() == 1"
    (tmp_path / "humaneval").mkdir()
    (tmp_path / "humaneval/HumanEval.jsonl").write_text(json.dumps(row) + "\n")
    with monkeypatch.context() as patched:
        patched.setattr(unmask, "load", None)
        patched.setattr("unmask.lm.load", None)
        words = ["eval", "--tasks", "humaneval", "--model_name_or_path", str(model), "--data_dir", str(tmp_path)]
        assert main(words) == 2
    assert "humaneval runs programs that the model writes" in capsys.readouterr().err
    task = load_tasks(find_tasks(["humaneval"], allow_code_execution=True), tmp_path).by_name["humaneval"]
    for answer, passed in ((row["canonical_solution"], 1), ("    return 2", 0), ("    import os; os._exit(0)", 0)):
        program = row["prompt"] + answer
        assert task.process_results(row, [[program]]) == {"pass@1": passed}


def test_an_unknown_task_is_told_its_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    # of this one folder: the whole index takes many seconds
    some = partial(harness_tasks.TaskManager, include_defaults=False)
    folder = str(harness_tasks._HOME / "gsm8k")
    monkeypatch.setattr(harness_tasks, "TaskManager", lambda **_: some(include_path=folder))
    with pytest.raises(ConfigError, match=r'the harness has no task "gsm8kk"\. Did you mean "gsm8k'):
        find_tasks(["gsm8kk"])


def test_a_model_that_sees_both_sides_may_fill_in(model: Path) -> None:
    doc = {"prompt": "def f():\n", "suffix": "\n    return x", "canonical_solution": "    x = 1"}
    entry = SimpleNamespace(args=("the harness' prompt", {"until": []}), doc=doc, task_name="infilling")
    asked: list[Request] = []
    lm = HarnessLM(unmask.load(model, device="cpu"), lambda requests: asked.extend(requests) or [""], blanks="oracle")
    lm.generate_until([entry])
    lm.blanks = (1, 4)
    lm.generate_until([entry])
    lm.blanks = None
    lm.generate_until([entry])
    assert [request.settings.get("tokens") for request in asked] == [[9, 9], [1, 4], None]
    assert [(request.kind, request.prompt) for request in asked[1:]] == [
        ("fill", "def f():\n"),
        ("generate", "the harness' prompt"),
    ]


REFUSALS = [
    (["--tasks", "piqa", "--model_name_or_path", "nowhere"], 'there is no folder "nowhere"|no folder "nowhere"'),
    (["--tasks", "piqa"], r"task piqa has no data in data_dir: looked for .*piqa/piqa\*\.jsonl"),
    (["--tasks", "arc_easy", "--model", "dream"], '--model is "dream", but the checkpoint is of the family llada'),
    (["--tasks", "arc_easy", "--num_fewshot", "-1"], "num_fewshot is -1; it must be at least 0"),
    (
        ["--tasks", "arc_easy", "--num_fewshot", "3"],
        "num_fewshot is 3, and arc_easy has 2 examples beside the question",
    ),
    (["--tasks", "gsm8k", "--num_fewshot", "5000"], "num_fewshot is 5,000, and gsm8k has 3 examples. Ask"),
    (["--tasks", "arc_easy,gsm8k", "--infill_tokens", "4"], "infill_tokens is for .* there is none in arc_easy, gsm8k"),
    (["--tasks", "gsm8k", "--num_fewshot", "0", "--settle", "4"], "settle is for multiple choice, and there is none"),
    (["--tasks", "arc_easy", "--max_length", "1025"], "--max_length is 1,025; this model reads at most 1,024 tokens"),
    (["--tasks", "arc_easy", "--include_path", "nowhere"], "include_path nowhere is no folder"),
]


@pytest.mark.parametrize(("words", "told"), REFUSALS)
def test_mistakes_are_told(
    words: list[str], told: str, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ["--model_name_or_path", str(model), "--data_dir", str(data), "--device", "cpu", "--samples", "1"]
    assert main(["eval", *known, *words]) == 2
    assert re.search(told, " ".join(capsys.readouterr().err.split()))


def test_a_folder_without_a_network_says_what_to_do(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert main(["eval", "--tasks", "piqa", "--model_name_or_path", str(model)]) == 2
    assert "--data_dir FOLDER reads files of your own" in capsys.readouterr().err
