from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import write_checkpoint
from unmask.errors import ConfigError, DataError
from unmask.lm import DiffusionLM, load
from unmask.lm.mapper import PromptMapper

SETTINGS: dict[str, Any] = {"max_new_tokens": 6, "steps": 3, "block_size": 6, "temperature": 1.0, "seed": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("lm") / "model"))


@pytest.fixture(scope="module")
def lm(folder: str) -> DiffusionLM:
    return load(folder, device="cpu")


def test_columns_go_through_and_results_do_not_depend_on_the_division(folder: str, lm: DiffusionLM) -> None:
    mapper = PromptMapper(
        folder, row_column="id", batch_size=2, load_options={"device": "cpu", "dtype": "float32"}, **SETTINGS
    )
    columns = {"prompt": np.array(["ab", "c", "defg"], dtype=object), "id": np.array([4, 5, 6]), "x": [1, 2, 3]}
    whole = mapper(columns)
    assert whole["x"] == [1, 2, 3] and whole["emitted"].dtype == np.int64
    for row, (prompt, number) in enumerate(zip(columns["prompt"], (4, 5, 6), strict=True)):
        alone = lm.generate(str(prompt), **{**SETTINGS, "seed": 2 + number})[0]
        part = mapper({name: values[row : row + 1] for name, values in columns.items()})
        assert whole["text"][row] == part["text"][0] == alone.text
        assert (whole["emitted"][row], whole["forwards"][row]) == (alone.stats.emitted, alone.stats.forwards.total)


def test_ids_and_messages(lm: DiffusionLM) -> None:
    talk = [{"role": "user", "content": "hi"}]
    mapper = PromptMapper(lm, prompt_column="asked", **SETTINGS)
    prompts = np.empty(2, dtype=object)
    prompts[0], prompts[1] = np.array([7, 8, 9]), np.array(talk)
    found = mapper({"asked": prompts})
    assert found["text"][0] == lm.generate([7, 8, 9], **SETTINGS)[0].text
    assert found["text"][1] == lm.generate(talk, **SETTINGS)[0].text


def test_blocks_are_those_that_a_checkpoint_was_made_for(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", attention="block_causal", block_size=4)
    lm = load(folder, device="cpu", dtype="float32")
    prompts = {"prompt": ["ab", "defg"]}
    own, other = (
        [each.text for each in lm.generate(prompts["prompt"], seeds=[0, 0], max_new_tokens=9, **size)]
        for size in ({}, {"block_size": 32})
    )
    assert own != other
    assert list(PromptMapper(lm, max_new_tokens=9)(prompts)["text"]) == own
    assert list(PromptMapper(lm, max_new_tokens=9, block_size=32)(prompts)["text"]) == other


def test_mistakes(lm: DiffusionLM) -> None:
    with pytest.raises(DataError, match=r'there is no column "prompt" \(found: text\)'):
        PromptMapper(lm, **SETTINGS)({"text": ["a"]})
    with pytest.raises(ConfigError, match='Did you mean "temperature"'):
        PromptMapper("nowhere", temprature=1)
