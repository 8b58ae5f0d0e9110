"""ZHZisZZ/dllm's side of the timing, run by its own Python: `dllm_side.py CHECKOUT`; jobs and answers as in `ours`.

Its wrappers of LLaDA ask for a GPU by name; that one word is replaced while it loads.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

SPECIAL = ("mask_token_id", "eos_token_id", "pad_token_id", "bos_token_id")


def load(job: dict[str, Any]) -> Any:
    """The model that a sampler needs."""
    from dllm.pipelines.a2d import A2DQwen3LMHeadModel
    from dllm.pipelines.fastdllm import llada as fast
    from dllm.pipelines.llada import LLaDAModelLM
    from dllm.pipelines.llada.models import modeling_llada

    kinds = {"mdlm": LLaDAModelLM, "fastdllm": fast.FastdLLMLLaDAModelLM, "bd3lm": A2DQwen3LMHeadModel}
    kind = kinds[job["peer"]["sampler"]]
    make = modeling_llada.LLaDAModel

    def on_cpu(config: Any, init_params: bool = False) -> Any:
        config.init_device = "cpu"
        return make(config, init_params=init_params)

    modeling_llada.LLaDAModel = on_cpu
    try:
        config = kind.config_class.from_pretrained(job["folder"])
        model = kind.from_pretrained(job["folder"], config=config, dtype=getattr(torch, job["dtype"]))
    finally:
        modeling_llada.LLaDAModel = make
    model.eval()
    return model


def answer(job: dict[str, Any], model: Any, tokenizer: Any) -> dict[str, Any]:
    """Decode once."""
    from dllm.core.samplers import BD3LMSampler, BD3LMSamplerConfig, MDLMSampler, MDLMSamplerConfig
    from dllm.pipelines.fastdllm.llada import FastdLLMLLaDASampler, FastdLLMLLaDASamplerConfig

    samplers = {
        "mdlm": (MDLMSampler, MDLMSamplerConfig),
        "fastdllm": (FastdLLMLLaDASampler, FastdLLMLLaDASamplerConfig),
        "bd3lm": (BD3LMSampler, BD3LMSamplerConfig),
    }
    settings = dict(job["peer"])
    sampler, config = samplers[settings.pop("sampler")]
    torch.manual_seed(0)
    calls: list[int] = []
    hook = model.register_forward_pre_hook(partial(_count, calls), with_kwargs=True)
    started = time.process_time()
    rows = sampler(model=model, tokenizer=tokenizer).sample(job["prompts"], config(**settings))
    seconds = time.process_time() - started
    hook.remove()
    new = settings["max_new_tokens"]
    return {
        "seconds": seconds,
        "tokens": rows[:, -new:].tolist(),
        "forwards": len(calls),
        "positions": sum(calls),
    }


def _count(calls: list[int], model: Any, args: tuple[Any, ...], settings: dict[str, Any]) -> None:
    calls.append((args[0] if args else settings["input_ids"]).numel())


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    # what its import says belongs to nobody's answer
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    models: dict[tuple[str, ...], Any] = {}
    for line in sys.stdin:
        job = json.loads(line)
        key = job["folder"], job["dtype"], job["peer"]["sampler"]
        if key not in models:
            models.clear()
            models[key] = load(job)
        with open(f"{job['folder']}/config.json", encoding="utf-8") as file:
            config = json.load(file)
        tokenizer = SimpleNamespace(**{name: config[name] for name in SPECIAL})
        print(json.dumps(answer(job, models[key], tokenizer)), file=answers, flush=True)


if __name__ == "__main__":
    main()
