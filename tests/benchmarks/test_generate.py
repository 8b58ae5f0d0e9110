"""The pure parts of the timing: jobs are the same for both sides, tokens are compared, ratios are theirs to ours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import generate  # noqa: E402

CASE = generate.CASES[0]


def test_both_sides_are_asked_for_the_same() -> None:
    job = generate.job_of(CASE, "float32", Path("folder"), 100, seed=3)
    for name in ("max_new_tokens", "block_size", "steps"):
        assert job["ours"][name] == job["peer"][name]
    assert [len(prompt) for prompt in job["prompts"]] == [CASE.prompt] * CASE.rows
    assert max(map(max, job["prompts"])) < 100 - generate.SPECIAL
    assert job == generate.job_of(CASE, "float32", Path("folder"), 100, seed=3)
    assert job["prompts"] != generate.job_of(CASE, "float32", Path("folder"), 100, seed=4)["prompts"]


def test_the_first_difference_is_found() -> None:
    assert generate.first_difference([[1, 2], [3, 4]], [[1, 2], [3, 4]]) is None
    assert generate.first_difference([[1, 2], [3, 4]], [[1, 2], [3, 5]]) == (1, 1)
    with pytest.raises(ValueError):
        generate.first_difference([[1, 2]], [[1]])


TALKER = """
import json, os, sys
for line in sys.stdin:
    print("a warning of a library, " * 10_000, file=sys.stderr)
    if json.loads(line)["end"]:
        sys.exit("what went wrong")
    print(json.dumps({"gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}), flush=True)
"""


@pytest.mark.parametrize(("device", "seen"), [("cpu", ""), ("cuda", "1")])
def test_a_side_may_say_much_and_sees_gpus_where_it_needs_one(
    monkeypatch: pytest.MonkeyPatch, device: str, seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    side = generate.Side([sys.executable, "-c", TALKER], None, device)
    for _ in range(2):
        assert side.ask({"end": False}) == {"gpus": seen}
    with pytest.raises(SystemExit, match="what went wrong"):
        side.ask({"end": True})
    side.close()


class Fake:
    """A side that takes a fixed time."""

    def __init__(self, seconds: float, last: int) -> None:
        self.seconds, self.last, self.jobs = seconds, last, 0

    def ask(self, job: dict) -> dict:
        self.jobs += 1
        tokens = [[*range(job["ours"]["max_new_tokens"] - 1), self.last]] * len(job["prompts"])
        return {"seconds": self.seconds * self.jobs, "tokens": tokens, "forwards": 64, "positions": 64 * 192}


def test_a_ratio_is_the_median_of_theirs_to_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 50}', encoding="utf-8")
    sides = {"ours": Fake(1.0, 7), "peer": Fake(3.0, 7)}
    found = generate.measure(CASE, "float32", tmp_path, sides, rounds=3)
    assert [sides[name].jobs for name in sides] == [4, 4]  # one to wake up
    assert found["ratio"]["median"] == pytest.approx(3.0)
    assert found["ours"]["tokens_per_forward"] == pytest.approx(2.0)
    assert found["ours"]["positions_per_token"] == pytest.approx(64 * 192 / 128)
    assert generate.same(found) == "all"
    assert generate.line(found).count("|") == generate.head(True, False).splitlines()[0].count("|")


def test_a_difference_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 50}', encoding="utf-8")
    found = generate.measure(CASE, "float32", tmp_path, {"ours": Fake(1.0, 7), "peer": Fake(1.0, 8)}, rounds=2)
    assert generate.same(found) == "0 of 2 rounds; from row 0, token 127"
