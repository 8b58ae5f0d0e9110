"""Checkpoints in their places: found if whole, passed over with the reason if not, never all deleted."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from unmask.errors import ConfigError, ModelError, ResourceError
from unmask.training import manifest, safekeeping
from unmask.training.arguments import Settings
from unmask.training.run import train


def fill(folder: Path, step: int = 1) -> None:
    (folder / "sub").mkdir()
    (folder / "model.bin").write_bytes(random.Random(step).randbytes(500))
    (folder / "sub" / "more.json").write_text('{"a": 1}')
    (folder / safekeeping.STATE).write_text(json.dumps({"global_step": step}))


def saved(output: Path, step: int) -> Path:
    folder = output / f"checkpoint-{step}"
    safekeeping.write_whole(folder, lambda target: fill(target, step))
    return folder


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    folder, chance = saved(tmp_path, 3), random.Random(1)
    assert manifest.fault(folder) is None
    files = [path for path in folder.rglob("*") if path.is_file()]
    for _ in range(200):
        path = chance.choice(files)
        content = bytearray(path.read_bytes())
        at = chance.randrange(len(content))
        content[at] ^= 1 << chance.randrange(8)
        before = path.read_bytes()
        path.write_bytes(bytes(content))
        # in the manifest itself some changes mean nothing: spaces, and the version that wrote it
        harmless = path.name == manifest.MANIFEST and _means_the_same(before, bytes(content))
        assert harmless or manifest.fault(folder) is not None, (path, at)
        path.write_bytes(before)
    assert manifest.fault(folder) is None


def _means_the_same(one: bytes, two: bytes) -> bool:
    try:
        first, second = json.loads(one), json.loads(two)
    except ValueError:
        return False
    return isinstance(second, dict) and first["files"] == second.get("files") and second.get("format") == 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "model.bin").unlink(), "model.bin is missing"),
        (lambda folder: (folder / "model.bin").write_bytes(b"x" * 499), r"model.bin has 499 bytes instead of 500"),
        (lambda folder: (folder / "model.bin").write_bytes(b"x" * 500), "the bytes of model.bin have changed"),
        (lambda folder: (folder / manifest.MANIFEST).write_text("{"), "manifest.json is damaged"),
        (
            lambda folder: (folder / manifest.MANIFEST).write_text('{"format": 7, "unmask": "9.9", "files": {}}'),
            r"written by unmask 9\.9 in a form \(number 7\) unknown here",
        ),
    ],
)
def test_a_damaged_one_is_passed_over_with_the_reason(tmp_path: Path, damage: Callable, reason: str) -> None:
    older = saved(tmp_path, 3)
    damage(saved(tmp_path, 10))
    found = safekeeping.newest(tmp_path)
    assert found.newest == older
    (told,) = found.passed_over
    assert told.startswith(f"{tmp_path / 'checkpoint-10'} is passed over: ")
    assert re.search(reason, told)


def test_one_from_before_manifests_is_taken(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3)
    (folder / manifest.MANIFEST).unlink()
    assert safekeeping.newest(tmp_path).newest == folder


def test_one_that_is_replaced_stays_until_the_new_one_is_there(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3)

    def fail(target: Path) -> None:
        fill(target)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        safekeeping.write_whole(folder, fail)
    assert manifest.fault(folder) is None
    assert list(tmp_path.iterdir()) == [folder]


def test_one_whose_successor_gets_no_name_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = saved(tmp_path, 3), Path.rename

    def full(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, 3)
    assert manifest.fault(folder) is None
    assert list(tmp_path.iterdir()) == [folder]


def test_one_that_cannot_be_deleted_is_told_and_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3, 4):
        saved(tmp_path, step)
    rename = Path.rename

    def denied(path: Path, target: Path) -> Path:
        if path.name == "checkpoint-1":
            raise PermissionError(1, "Operation not permitted")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", denied)
    said = safekeeping.rotate(tmp_path, 2, None)
    assert said is not None and re.search(r"checkpoint-1 should make room .* Operation not permitted", said)
    assert [path.name for path in safekeeping.checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]


def test_one_that_another_user_closed_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older, closed, read = saved(tmp_path, 3), saved(tmp_path, 10), Path.read_text

    def denied(path: Path, **how: str) -> str:
        if closed in path.parents:
            raise PermissionError(13, "Permission denied")
        return read(path, **how)

    # what the system calls say; root, as whom tests may run, may do everything
    monkeypatch.setattr(safekeeping.os, "access", lambda path, _: Path(path) != closed)
    monkeypatch.setattr(safekeeping.os.path, "isfile", lambda path: closed not in Path(path).parents)
    monkeypatch.setattr(Path, "read_text", denied)
    found = safekeeping.newest(tmp_path)
    assert found.newest == older
    assert found.passed_over == (f"{closed} is passed over: it cannot be read (Permission denied)",)


def test_what_an_interrupted_run_left_is_cleared_away(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    folder = saved(tmp_path, 2)
    folder.rename(tmp_path / ".checkpoint-2.replaced")
    for name in (".checkpoint-3.partial", ".checkpoint-1.deleted"):
        (tmp_path / name).mkdir()
    (tmp_path / ".mine").mkdir()
    safekeeping.settle(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", "checkpoint-1", "checkpoint-2"]


@tried(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(st.sampled_from(["save", "fail", "kill", "rotate", "settle"]), min_size=1, max_size=12),
    keep=st.integers(1, 3),
)
def test_the_last_complete_one_is_never_deleted(tmp_path: Path, events: list[str], keep: int) -> None:
    output = tmp_path / "run"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    last = None
    for step, event in enumerate(events, 1):
        target = output / f"checkpoint-{step}"
        if event == "save":
            last = saved(output, step)
        elif event == "fail":
            with pytest.raises(ZeroDivisionError):
                safekeeping.write_whole(target, lambda folder: (fill(folder), 1 // 0))
        elif event == "kill":
            (output / f".checkpoint-{step}.partial").mkdir()
        elif event == "rotate":
            safekeeping.rotate(output, keep, None)
            assert len(safekeeping.checkpoints(output)) <= keep
        else:
            safekeeping.settle(output)
        assert safekeeping.newest(output).newest == last


def test_a_run_goes_on_from_the_newest_whole_one(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = {"save_strategy": "steps", "save_steps": 1}
    train(settings(**every, max_steps=3), verb="sft")
    run = tmp_path / "run"
    with (run / "checkpoint-3" / "optimizer.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xaa")
    assert "starting from" in capsys.readouterr().out
    train(settings(**every, max_steps=4), verb="sft")
    told = " ".join(capsys.readouterr().out.split())
    assert "starting from" not in told
    assert "checkpoint-3 is passed over: the bytes of optimizer.safetensors have changed" in told
    assert f"resuming from {run / 'checkpoint-2'}" in told
    for step in (2, 3, 4):
        (run / f"checkpoint-{step}" / "model.safetensors").unlink()
    (run / "checkpoint-1" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot be resumed from: .*checkpoint-4 is passed over.*--fresh"):
        train(settings(**every, max_steps=5), verb="sft")


def test_the_only_one_survives_a_stop_while_it_is_replaced(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    train(settings(**every, max_steps=2), verb="sft")
    run = tmp_path / "run"
    (run / "checkpoint-2").rename(run / ".checkpoint-2.replaced")
    shutil.rmtree(run / "checkpoint-final")
    capsys.readouterr()
    train(settings(**every, max_steps=3), verb="sft")
    assert f"resuming from {run / 'checkpoint-2'}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["a [b] {c} *?", "two\nlines", " spaces ", "ünïcode-模型", "-dash", "'quoted\" $HOME"])
def test_a_folder_may_be_called_anything(settings: Callable[..., Settings], tmp_path: Path, name: str) -> None:
    run = tmp_path / name
    every = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "output_dir": str(run)}
    train(settings(**every, max_steps=1), verb="sft")
    result = train(settings(**every, max_steps=3), verb="sft")
    assert [line["step"] for line in result.history if "loss" in line] == [1, 2, 3]
    assert [path.name for path in safekeeping.checkpoints(run)] == ["checkpoint-2", "checkpoint-3"]


def test_fresh_behind_a_link_stays_on_its_disk(settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    train(settings(max_steps=1), verb="sft")
    for _ in range(2):
        train(settings(max_steps=1, fresh=True), verb="sft")
    assert (tmp_path / "run").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "run"]
    for name in ("run", "run.1", "run.2"):
        assert (tmp_path / "disk" / name / "checkpoint-final" / "model.safetensors").is_file()


# the largest bound is the best: an early one
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "nll", "greater_is_better": True}
EVERY = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}


def test_the_best_is_found_where_its_folder_went(
    settings: Callable[..., Settings], tmp_path: Path, conversations: Path
) -> None:
    chosen, moved = {**BEST, **EVERY, "dataset_args": f"{conversations}[test:5]"}, tmp_path / "moved"
    train(settings(**chosen, max_steps=2), verb="sft")
    (tmp_path / "run").rename(moved)
    train(settings(**chosen, max_steps=3, output_dir=str(moved)), verb="sft")
    best, final = (moved / f"checkpoint-{name}" / "model.safetensors" for name in ("1", "final"))
    assert best.read_bytes() == final.read_bytes()


def test_a_best_that_could_not_be_saved_costs_no_run(
    settings: Callable[..., Settings],
    tmp_path: Path,
    conversations: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saves = itertools.count(1)

    def full(folder: Path, needed: int) -> None:
        if next(saves) == 1:
            raise ResourceError("no room")

    monkeypatch.setattr(safekeeping, "check_room", full)
    chosen = {**BEST, **EVERY, "dataset_args": f"{conversations}[test:5]", "save_total_limit": 1}
    train(settings(**chosen, max_steps=2), verb="sft")
    assert "the best checkpoint, checkpoint-1, is gone" in " ".join(capsys.readouterr().out.split())
    last, final = (tmp_path / "run" / f"checkpoint-{name}" / "model.safetensors" for name in ("2", "final"))
    assert last.read_bytes() == final.read_bytes()


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    safekeeping.check_room(tmp_path, 1)
    with pytest.raises(ResourceError, match=r"a checkpoint takes [\d,.]+ MB and .* has [\d,.]+ MB left"):
        safekeeping.check_room(tmp_path, 1 << 60)


def test_a_recipe_that_was_cut_off_is_named(settings: Callable[..., Settings], tmp_path: Path) -> None:
    train(settings(save_strategy="steps", save_steps=1, max_steps=1), verb="sft")
    (tmp_path / "run" / "recipe.json").write_text('{"recipe": {')
    with pytest.raises(ConfigError, match=r"recipe\.json is damaged"):
        train(settings(max_steps=2), verb="sft")
