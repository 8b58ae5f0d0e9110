"""Log-likelihoods of the tiny LLaDA equal those of LLaDA's own script and of dLLM's harness, mask for mask."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from unmask.models.checkpoints import load_model
from unmask.objectives.estimators import Guidance, log_likelihood, masked_nll_sums
from unmask.objectives.greedy import GreedyWriting


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "golden/llada"


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder)).eval()


@pytest.fixture(scope="module")
def cases(folder) -> list[dict]:
    return json.loads((folder / "llada_log_likelihood.json").read_text())


@pytest.mark.parametrize("number", range(4))
def test_stored_masks_give_the_stored_value(folder, model, cases, number: int):
    case, stored = cases[number], load_file(folder / "llada_log_likelihood_masks.safetensors")
    perturbed_BL = stored[f"case{number}_perturbed"].flatten(0, 1)
    mask_prob_B = stored[f"case{number}_pmask"].flatten(0, 1)[:, -1]
    x0_BL = torch.tensor(case["prompt"] + case["answer"]).expand_as(perturbed_BL)
    prompt_BL = (torch.arange(x0_BL.shape[1]) < len(case["prompt"])).expand_as(perturbed_BL)
    guidance = Guidance(case["cfg_scale"], prompt_BL, case["mask_id"]) if case["cfg_scale"] else None
    with torch.no_grad():
        sums_B = masked_nll_sums(model, perturbed_BL, x0_BL, perturbed_BL == case["mask_id"], guidance=guidance)
    assert len(sums_B) == case["mc_num"]
    assert -float((sums_B / mask_prob_B).mean()) == pytest.approx(case["value"], rel=1e-5, abs=2e-4)
    if number == 0:  # dLLM's harness was run on the same target with the same seed
        harness = json.loads((folder / "dllm_eval_loglikelihood.json").read_text())
        assert -float((sums_B / mask_prob_B).mean()) == pytest.approx(harness["loglikelihood"], rel=1e-5, abs=2e-4)


@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_our_own_masks_agree_within_the_noise(model, cases, scale: float):
    prompt_ids, target_ids = torch.tensor(cases[0]["prompt"]), torch.tensor(cases[0]["answer"])
    stored = [case for case in cases if case["cfg_scale"] == scale and case["mc_num"] >= 8]
    settings = {"mask_token_id": cases[0]["mask_id"], "samples": 200, "batch_size": 100, "guidance_scale": scale}
    found = log_likelihood(model, prompt_ids, target_ids, **settings)
    for case in stored:
        # The spread of one sample, for as many samples as were stored.
        error = found.stderr * (found.samples / case["mc_num"]) ** 0.5
        assert abs(found.mean - case["value"]) < 4 * error


def test_the_same_targets_are_greedy(folder, model, cases):
    stored = json.loads((folder / "dllm_eval_loglikelihood.json").read_text())
    answers = {"answer": "is_greedy", "greedy_target": "greedy_target_is_greedy"}
    pairs = [(stored["prompt"], stored[target]) for target in answers]
    found = dict(GreedyWriting(cases[0]["mask_id"]).many(model, pairs))
    assert [found[index] for index in range(2)] == [stored[verdict] for verdict in answers.values()]
