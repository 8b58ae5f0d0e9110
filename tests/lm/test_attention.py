"""Models are decoded as they were made: autoregressive ones from left to right, others perhaps in their own blocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import unmask
from tests.stories import write_llama
from tests.tiny import write_checkpoint
from unmask.errors import ConfigError
from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM
from unmask.lm.attention import as_made
from unmask.models.facts import facts_of
from unmask.registry import FAMILIES

LENGTH = {"max_new_tokens": 12, "steps": 12, "early_stop": False}


@pytest.fixture(scope="module")
def lm(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffusionLM:
    folder = write_llama(tmp_path_factory.mktemp("stories") / "llama", shared / "data" / "weights_stories260k")
    return unmask.load(folder, device="cpu")


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_a_real_model_writes_what_it_wrote_elsewhere(lm: DiffusionLM, shared: Path, cache: str) -> None:
    golden = json.loads((shared / "data" / "weights_stories260k" / "golden_stories260k.json").read_text())
    ids = golden["greedy_ids_from_bos"]
    for start in (1, 7):
        (done,) = lm.generate([ids[:start]], max_new_tokens=len(ids) - start, cache=cache)
        assert done.token_ids == ids[start:]
        assert done.stats.forwards.total == len(ids) - start


def test_with_its_cache_each_position_is_computed_once(lm: DiffusionLM) -> None:
    (done,) = lm.generate([[1, 5, 6]], max_new_tokens=20, early_stop=False)
    assert done.stats.positions == 3 + 19


def test_rows_of_a_batch_are_the_rows_alone(lm: DiffusionLM) -> None:
    prompts = ["Once upon a time", "Lily", "One day, a big dog"]
    together = lm.generate(prompts, max_new_tokens=24, temperature=0.8)
    for row, prompt in enumerate(prompts):
        (alone,) = lm.generate([prompt], max_new_tokens=24, temperature=0.8, seeds=[row])
        assert alone.token_ids == together[row].token_ids
    assert dict(lm.generate_many(prompts, max_new_tokens=24, temperature=0.8, batch_size=2))[2].token_ids == (
        together[2].token_ids
    )


def test_what_it_cannot_do_is_said(lm: DiffusionLM) -> None:
    with pytest.raises(ConfigError, match="autoregressive and has no masks"):
        lm.generate("Lily", guidance_scale=1.0)
    with pytest.raises(ConfigError, match="does not see what follows a blank"):
        lm.infill("Lily [MASK] a dog.")


@pytest.fixture(scope="module")
def of_blocks(tmp_path_factory: pytest.TempPathFactory) -> DiffusionLM:
    folder = write_checkpoint(tmp_path_factory.mktemp("blocks"), attention="block_causal", block_size=4)
    return unmask.load(folder, device="cpu")


def test_a_model_made_for_blocks_is_decoded_in_its_own(of_blocks: DiffusionLM, tmp_path: Path) -> None:
    # the same weights, made for nothing
    plain = unmask.load(write_checkpoint(tmp_path / "plain"), device="cpu")
    for size in (4, 8, 32):
        (told,) = plain.generate("One", attention="block_causal", block_size=size, **LENGTH)
        (given,) = of_blocks.generate("One", block_size=size, **LENGTH)
        (whole,) = of_blocks.generate("One", GenerationOptions(block_size=size, **LENGTH))
        assert told.token_ids == given.token_ids == whole.token_ids
        (silent,) = of_blocks.generate("One", **LENGTH)
        assert (silent.token_ids == told.token_ids) == (size == 4)
        assert dict(of_blocks.generate_many(["One"], **LENGTH))[0].token_ids == silent.token_ids
    assert plain.generate("One", **LENGTH)[0].token_ids == plain.generate("One", block_size=32, **LENGTH)[0].token_ids


def test_a_saved_model_names_its_blocks(of_blocks: DiffusionLM, tmp_path: Path) -> None:
    of_blocks.save(tmp_path / "saved")
    assert "| block_size | 4, as it was trained |" in (tmp_path / "saved" / "README.md").read_text()


def test_tokens_cannot_be_hidden_where_the_position_before_predicts_them() -> None:
    options = GenerationOptions(strategy="revoke")
    dream, llada = (facts_of(FAMILIES.get(name).tiny_config) for name in ("dream", "llada"))
    with pytest.raises(ConfigError, match="a dream model predicts each token at the position before it"):
        as_made(options, dream)
    assert as_made(options, llada).attention == "bidirectional"
