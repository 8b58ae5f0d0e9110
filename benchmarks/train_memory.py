"""The estimate of `unmask show memory` against the memory that training runs then took.

Each configuration is a run of its own, `unmask.training.run.train` from first weights to a saved model, in a process of
its own. On a CPU the peak is what the system counts for the process (VmHWM), less what it had after a small run of the
same kind, with a C library that hands every large block back to the system at once (Linux only). On a GPU it is what
PyTorch's allocator counted. `--check` exits with 1 where the two are more than a tenth apart.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

LIMIT = 0.10
WORDS = 1000
# blocks above this size come from the system and go back to it: what is freed does not count any more
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "32768",
    "MALLOC_TRIM_THRESHOLD_": "32768",
    "MALLOC_ARENA_MAX": "1",
}
DENSE = {"d_model": 512, "n_layers": 6, "n_heads": 8, "n_kv_heads": 8, "mlp_hidden_size": 1408, "vocab_size": 16_000}
SPARSE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 6}
SPARSE |= {"dense_intermediate_size": 1024, "expert_intermediate_size": 256, "shared_expert_intermediate_size": 256}
SPARSE |= {"num_experts": 16, "num_experts_per_tok": 4, "moe_layer_freq": [1] * 6, "vocab_size": 16_000}
SMALL = {"d_model": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "mlp_hidden_size": 128, "vocab_size": 2000}
SMALL_SPARSE = {**SPARSE, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
SMALL_SPARSE |= {"dense_intermediate_size": 128, "expert_intermediate_size": 32, "shared_expert_intermediate_size": 32}
SMALL_SPARSE |= {"moe_layer_freq": [1] * 2, "vocab_size": 2000}


@dataclass(frozen=True)
class Case:
    """A configuration: flags of `unmask pretrain` or `unmask sft`, by the part of the settings that has them."""

    flags: dict[str, Any] = field(default_factory=dict)
    verb: str = "pretrain"
    rows: int = 2
    length: int = 256
    sparse: bool = False


CASES = {
    "float32": Case(),
    "mixed precision": Case({"bf16": True}),
    "bfloat16 weights": Case({"dtype": "bfloat16", "bf16": True, "optim": "adamw_torch"}),
    "adapter": Case({"lora": True, "r": 16, "dtype": "bfloat16", "bf16": True}, rows=3),
    "whole_layer": Case({"gradient_checkpointing": True}, rows=4),
    "fine_grained": Case({"gradient_checkpointing": True, "checkpointing_strategy": "fine_grained"}, rows=4),
    "selective": Case({"gradient_checkpointing": True, "checkpointing_strategy": "selective", "bf16": True}, rows=4),
    "packed": Case({"packing": True, "from_scratch": True, "gradient_accumulation_steps": 2}, verb="sft"),
    "blocks": Case({"objective": "block", "block_size": 32}),
    "experts": Case({"gradient_accumulation_steps": 2}, sparse=True),
    "adafactor": Case({"optim": "adafactor"}),
    "8-bit states": Case({"optim": "adamw_8bit"}),
}
UPDATES = 2


def write_model(folder: Path, *, sparse: bool, small: bool) -> None:
    """A configuration without weights, and a tokenizer of a thousand words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from unmask.registry import FAMILIES

    size: dict[str, Any] = (SMALL_SPARSE if small else SPARSE) if sparse else (SMALL if small else DENSE)
    config = {**FAMILIES.get("llada_moe" if sparse else "llada").tiny_config, **size}
    special = ["<mask>", "<eos>", "<pad>", "<bos>"]
    config |= {"mask_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    if not sparse:
        config |= {"embedding_size": size["vocab_size"]}
    config |= {"max_sequence_length": 4096} if not sparse else {"max_position_embeddings": 4096}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    vocabulary = {word: index for index, word in enumerate([*special, *(f"w{i}" for i in range(WORDS))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("mask_token", "eos_token", "pad_token", "bos_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)


def write_data(file: Path, case: Case) -> None:
    """Rows enough for every update, each as long as is allowed; packed ones of every length."""
    chance = random.Random(0)
    lines = []
    for _ in range(4 * UPDATES * case.rows * case.flags.get("gradient_accumulation_steps", 1)):
        length = chance.randint(case.length // 8, case.length // 2) if case.flags.get("packing") else case.length + 10
        words = " ".join(f"w{chance.randrange(WORDS)}" for _ in range(length))
        turns = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": words}]
        lines.append(json.dumps({"messages": turns} if case.verb == "sft" else {"text": words}))
    file.write_text("\n".join(lines), encoding="utf-8")


def settings_of(case: Case, model: Path, data: Path, output: Path) -> Any:
    """The flags as `Settings`."""
    from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings

    parts: list[Any] = [
        ModelArguments(model_name_or_path=str(model)),
        DataArguments(dataset_args=str(data), max_length=case.length),
        ObjectiveArguments(),
        RunArguments(report=False),
    ]
    trainer = {"output_dir": str(output), "max_steps": UPDATES, "per_device_train_batch_size": case.rows}
    trainer |= {"logging_steps": 1, "save_strategy": "no", "optim": "adamw_torch_fused", "learning_rate": 1e-4}
    for name, value in case.flags.items():
        owner = next((index for index, part in enumerate(parts) if hasattr(part, name)), None)
        if owner is None:
            trainer[name] = value
        else:
            parts[owner] = replace(parts[owner], **{name: value})
    return Settings(*parts, trainer)


def run_here(case: Case, folder: Path, *, small: bool) -> Any:
    """Train; the settings and the model's facts, for the estimate."""
    from rich.console import Console

    from unmask.training.run import train

    place = folder / ("small" if small else "large")
    write_model(place / "model", sparse=case.sparse, small=small)
    write_data(place / "rows.jsonl", case)
    settings = settings_of(case, place / "model", place / "rows.jsonl", place / "run")
    train(settings, verb=case.verb, console=Console(quiet=True))
    return settings


def child(name: str, case: Case) -> dict[str, Any]:
    """Estimate and measure one case, in this process."""
    import torch

    from unmask.models.facts import read_facts
    from unmask.training.memory_question import estimate_of

    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as temporary:
        run_here(replace(case, rows=1, length=64), Path(temporary), small=True)
        gc.collect()
        before = 0 if on_gpu else now()
        reset(on_gpu)
        began = time.perf_counter()
        settings = run_here(case, Path(temporary), small=False)
        seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated() if on_gpu else highest()
        estimate = estimate_of(settings, case.verb, read_facts(Path(settings.model.model_name_or_path)))
    measured = peak - before
    return {
        "case": name,
        "estimate": estimate.peak,
        "measured": measured,
        "ratio": estimate.peak / measured,
        "seconds": seconds,
        "parts": dict(estimate.parts),
    }


def now() -> int:
    """Bytes of this process that lie in memory."""
    import ctypes

    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return status("VmRSS")


def reset(on_gpu: bool) -> None:
    """Forget the peak so far."""
    if on_gpu:
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def highest() -> int:
    """The most bytes since `reset`."""
    return status("VmHWM")


def status(name: str) -> int:
    """A line of the kernel's account of this process, bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def measure(name: str) -> dict[str, Any]:
    """One case in a process of its own, a copy of this one, which has imported everything and run nothing."""
    receiver, sender = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.write(sender, json.dumps(child(name, CASES[name])).encode())
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    os.close(sender)
    with os.fdopen(receiver) as pipe:
        told = pipe.read()
    os.waitpid(process, 0)
    if not told:
        raise SystemExit(f"{name}: the run failed")
    return json.loads(told)


def prepare() -> None:
    """Begin again with the environment that a fair measure needs, and import what all cases do."""
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, **ENVIRONMENT, "UNMASK_CACHE": cache}
            sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)
    import unmask.models.moe
    import unmask.training.run

    assert unmask.training.run and unmask.models.moe


def line(row: dict[str, Any]) -> str:
    sizes = "".join(f"{row[name] / 2**20:>12,.0f}" for name in ("estimate", "measured"))
    return f"{row['case']:18}{sizes}{row['ratio']:>8.2f}{row['seconds']:>8.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if an estimate is more than a tenth off")
    options = parser.parse_args()
    prepare()
    rows: list[dict[str, Any]] = []
    if not options.json:
        print(f"{'MiB':18}{'estimate':>12}{'measured':>12}{'ratio':>8}{'time':>10}")
    for name in options.cases:
        rows.append(measure(name))
        if not options.json:
            print(line(rows[-1]), flush=True)
    if options.json:
        print(json.dumps(rows))
    return 1 if options.check and any(abs(row["ratio"] - 1) > LIMIT for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
