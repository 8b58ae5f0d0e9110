"""Checkpoints in their places: found if whole, passed over with the reason if not, never all deleted."""

from __future__ import annotations

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
    capsys.readouterr()
    train(settings(**every, max_steps=4), verb="sft")
    told = " ".join(capsys.readouterr().out.split())
    assert "checkpoint-3 is passed over: the bytes of optimizer.safetensors have changed" in told
    assert f"resuming from {run / 'checkpoint-2'}" in told
    for step in (2, 3, 4):
        (run / f"checkpoint-{step}" / "model.safetensors").unlink()
    (run / "checkpoint-1" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot be resumed from: .*checkpoint-4 is passed over.*--fresh"):
        train(settings(**every, max_steps=5), verb="sft")


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    safekeeping.check_room(tmp_path, 1)
    with pytest.raises(ResourceError, match=r"a checkpoint takes [\d,.]+ MB and .* has [\d,.]+ MB left"):
        safekeeping.check_room(tmp_path, 1 << 60)


def test_a_recipe_that_was_cut_off_is_named(settings: Callable[..., Settings], tmp_path: Path) -> None:
    train(settings(save_strategy="steps", save_steps=1, max_steps=1), verb="sft")
    (tmp_path / "run" / "recipe.json").write_text('{"recipe": {')
    with pytest.raises(ConfigError, match=r"recipe\.json is damaged"):
        train(settings(max_steps=2), verb="sft")
