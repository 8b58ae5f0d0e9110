from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_checkpoint
from unmask.data.result_file import ResultFile, Share, check_origin, kept, made_of
from unmask.errors import ConfigError, DataError, ResourceError
from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM, load, prompt_file
from unmask.lm.prompt_file import Progress, PromptFile, generate_file

SETTINGS: dict[str, Any] = {"max_new_tokens": 8, "steps": 4, "block_size": 8, "temperature": 1.0, "seed": 5}
OPTIONS = GenerationOptions(**SETTINGS)
KILLS = Path(__file__).with_name("kills.py")
KILLED_AT_CALLS = Path(__file__).with_name("killed_at_calls.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("lm") / "model")


@pytest.fixture(scope="module")
def lm(folder: Path) -> DiffusionLM:
    return load(folder, device="cpu")


def write_prompts(path: Path, rows: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    prompts = ["".join(chance.choice("abcdefgh ") for _ in range(chance.randint(1, 60))) for _ in range(rows)]
    path.write_text("".join(json.dumps({"prompt": text, "id": f"r{n}"}) + "\n" for n, text in enumerate(prompts)))
    return prompts


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def expected(lm: DiffusionLM, prompts: list[str]) -> list[dict[str, Any]]:
    """Each row alone."""
    found = []
    for number, prompt in enumerate(prompts):
        (out,) = lm.generate(prompt, OPTIONS, seeds=[OPTIONS.seed + number])
        found.append({"prompt": prompt, "id": f"r{number}", "text": out.text, "finish_reason": out.finish_reason})
    return found


def without_stats(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "stats"} for row in rows]


@pytest.mark.parametrize(("rows", "kills"), [(60, 3), pytest.param(1000, 40, marks=pytest.mark.long)])
def test_killed_runs_leave_every_row_once_and_as_if_alone(
    folder: Path, lm: DiffusionLM, tmp_path: Path, rows: int, kills: int
) -> None:
    prompts = write_prompts(tmp_path / "in.jsonl", rows)
    words = [folder, tmp_path / "in.jsonl", tmp_path / "out.jsonl", kills, rows]
    told = subprocess.run([sys.executable, KILLS, *map(str, words)], capture_output=True, text=True)
    assert "last exit 0" in told.stdout, told.stderr
    assert int(told.stdout.split()[0]) >= kills - 1, told.stdout
    assert without_stats(results(tmp_path / "out.jsonl")) == expected(lm, prompts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.run.json"]


def test_killed_before_any_call_of_the_file_system_a_run_goes_on_and_leaves_nothing(
    folder: Path, tmp_path: Path
) -> None:
    write_prompts(tmp_path / "in.jsonl", 2)
    (tmp_path / "runs").mkdir()
    words = [folder, tmp_path / "in.jsonl", tmp_path / "runs"]
    done = subprocess.run([sys.executable, KILLED_AT_CALLS, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["problems"] == [] and told["files"] == ["out.jsonl", "out.jsonl.run.json"]
    assert told["calls"] > 50, "most calls were not seen"


def test_what_a_row_becomes(lm: DiffusionLM, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "hi"}]
    rows = [{"text": "abc", "id": 7}, {"messages": talk, "gold": None}, {"question": "hi", "answer": "x"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told: list[tuple[int, int]] = []
    work = PromptFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl", OPTIONS, batch_size=2)
    done = generate_file(work, lambda: lm, lambda progress: told.append((progress.done, progress.total)))
    first, second, third = results(tmp_path / "out.jsonl")
    alone = lm.generate("abc", OPTIONS)[0]
    assert (first["prompt"], first["id"], first["text"]) == ("abc", 7, alone.text)
    assert first["stats"] == {
        "prompt_tokens": 3,
        "emitted": alone.stats.emitted,
        "forwards": dataclasses.asdict(alone.stats.forwards),
        "positions": first["stats"]["positions"],
        "seed": 5,
    }
    assert second["messages"] == talk and second["gold"] is None
    assert second["text"] == lm.generate(talk, **{**SETTINGS, "seed": 6})[0].text
    assert third["answer"] == "x" and third["text"] == lm.generate(talk, **{**SETTINGS, "seed": 7})[0].text
    assert done.is_complete and (done.done, done.missing) == (3, 0) and told[0] == (0, 3) and told[-1] == (3, 3)
    assert done.tokens == sum(row["stats"]["emitted"] for row in (first, second, third))


def test_a_finished_run_is_not_run_again_and_another_is_refused(lm: DiffusionLM, tmp_path: Path) -> None:
    write_prompts(tmp_path / "in.jsonl", 3)
    work = PromptFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl", OPTIONS)
    generate_file(work, lambda: lm)
    before = (tmp_path / "out.jsonl").read_bytes()

    def refuse() -> DiffusionLM:
        raise AssertionError("the model was loaded")

    again = generate_file(work, refuse)
    assert again.is_complete and (again.done, again.before) == (0, 3)
    other = dataclasses.replace(work, options=dataclasses.replace(OPTIONS, steps=2))
    with pytest.raises(ConfigError, match=r"out.jsonl is made of something else: steps 4 -> 2. .*--fresh"):
        generate_file(other, refuse)
    write_prompts(tmp_path / "in.jsonl", 3, seed=1)
    with pytest.raises(ConfigError, match="made of something else: input"):
        generate_file(work, refuse)
    assert (tmp_path / "out.jsonl").read_bytes() == before
    anew = generate_file(dataclasses.replace(work, fresh=True), lambda: lm)
    assert anew.done == 3 and (tmp_path / "out.jsonl.1").read_bytes() == before
    assert "out.jsonl.1" in anew.notes[-1]


def test_another_model_is_refused(lm: DiffusionLM, tmp_path: Path) -> None:
    write_prompts(tmp_path / "in.jsonl", 4)
    work = PromptFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl", OPTIONS, batch_size=1)

    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_file(work, lambda: lm, stop)
    trained = load(write_checkpoint(tmp_path / "other"), device="cpu")
    next(trained.model.parameters()).data[0] += 1
    with pytest.raises(ConfigError, match="made of something else: weights"):
        generate_file(work, lambda: trained)
    gone_on = generate_file(work, lambda: lm)
    assert (gone_on.before, gone_on.done, gone_on.is_complete) == (2, 2, True)


def test_processes_share_the_rows_and_the_last_one_puts_them_together(lm: DiffusionLM, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "in.jsonl", 7)
    work = PromptFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl", OPTIONS, batch_size=2)
    parts = [dataclasses.replace(work, share=Share(rank, 3)) for rank in range(3)]
    done = [generate_file(part, lambda: lm) for part in parts]
    assert [progress.is_complete for progress in done] == [False, False, True]
    assert [progress.done for progress in done] == [3, 2, 2] and done[0].missing == 4
    assert without_stats(results(tmp_path / "out.jsonl")) == expected(lm, prompts)


def test_fewer_processes_go_on_with_what_more_have_done(lm: DiffusionLM, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "in.jsonl", 7)
    work = PromptFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl", OPTIONS)
    generate_file(dataclasses.replace(work, share=Share(1, 3)), lambda: lm)
    done = generate_file(work, lambda: lm)
    assert (done.before, done.done, done.is_complete) == (2, 5, True)
    assert without_stats(results(tmp_path / "out.jsonl")) == expected(lm, prompts)


def test_bad_rows_are_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"promt": "b"}\n')
    work = PromptFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl", OPTIONS)
    with pytest.raises(DataError, match=r'in.jsonl:2 no prompt \(found: promt\).*Did you mean "prompt"') as caught:
        generate_file(work, pytest.fail)
    assert "--skip_bad_rows" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_prompts_without_room_are_told_or_left_out(lm: DiffusionLM, tmp_path: Path) -> None:
    prompts = ["ab", "x" * 250, "y" * 251, "cd"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    work = PromptFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl", OPTIONS)
    with pytest.raises(DataError, match=r"in.jsonl:2 has 250 tokens, 258 .* So it is with 2 of 4 rows"):
        generate_file(work, lambda: lm)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    done = generate_file(dataclasses.replace(work, skip_bad_rows=True), lambda: lm)
    # the seed of a row is that of its place in the file
    assert [row["stats"]["seed"] for row in results(tmp_path / "out.jsonl")] == [5, 8]
    assert "2 of 4 rows cannot be used" in done.notes[0]


def test_prompts_that_the_chat_template_refuses_are_told_or_left_out(
    lm: DiffusionLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}x{% endfor %}"
    )
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    talk = [{"role": "user", "content": "hi"}]
    rows = [{"messages": talk}, {"messages": [{"role": "system", "content": "s"}, *talk]}, {"prompt": "ab"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    work = PromptFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl", OPTIONS)
    with pytest.raises(DataError, match=r"in.jsonl:2: .*no system.* --skip_bad_rows true"):
        generate_file(work, lambda: lm)
    skipping = dataclasses.replace(work, skip_bad_rows=True)
    done = generate_file(skipping, lambda: lm)
    assert [row["stats"]["seed"] for row in results(tmp_path / "out.jsonl")] == [5, 7]
    assert "1 of 3 rows cannot be used and are skipped" in done.notes[0] and "in.jsonl:2: " in done.notes[0]
    (tmp_path / "in.jsonl").write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(DataError, match=r"in.jsonl:1: .*no system"):
        generate_file(dataclasses.replace(skipping, output=tmp_path / "none.jsonl"), lambda: lm)


def test_a_run_that_begins_here_meanwhile_is_not_written_into(lm: DiffusionLM, tmp_path: Path) -> None:
    """Between saying what an output is made of and holding its part, another run may say something else."""
    write_prompts(tmp_path / "in.jsonl", 2)
    work = PromptFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl", OPTIONS)
    enter = ResultFile.__enter__

    def late(self: ResultFile) -> ResultFile:
        check_origin(work.output, {"steps": 2}, whole=True)
        with ResultFile(work.output, range(2), Share(1, 2)) as others:
            others.add(1, {"text": "another run's"})
        return enter(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ConfigError, match="made of something else"):
        patch.setattr(
            prompt_file.ResultFile, "__enter__", lambda self: late(self) if self.share.ranks == 1 else enter(self)
        )
        generate_file(work, lambda: lm)
    assert made_of(work.output) == {"steps": 2} and kept(work.output) == 1


def test_a_full_disk_is_told_and_gone_on_after(
    lm: DiffusionLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource", reason="limits the size of files")
    prompts = write_prompts(tmp_path / "in.jsonl", 16)
    work = PromptFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl", OPTIONS, batch_size=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3001, limits[1]))
    try:
        with pytest.raises(ResourceError, match=r"cannot write .*out.jsonl: .* the same command goes on"):
            generate_file(work, lambda: lm)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    part = (tmp_path / "out.jsonl.part-0-of-1").read_bytes()
    assert not part.endswith(b"\n"), "the limit falls on the end of a line: the case shows nothing"
    done = generate_file(work, lambda: lm)
    assert 0 < done.before < 16 and done.before + done.done == 16
    assert without_stats(results(tmp_path / "out.jsonl")) == expected(lm, prompts)


def test_running_out_of_memory_says_what_to_do(
    lm: DiffusionLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    write_prompts(tmp_path / "in.jsonl", 2)
    work = PromptFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl", OPTIONS)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(lm.model, "forward", fail)
    with pytest.raises(ResourceError, match="out of memory with batch_size 16. .* a smaller --batch_size"):
        generate_file(work, lambda: lm)
