"""Peak memory of loading, merging and converting, as multiples of a checkpoint's size.

A synthetic Llama of about 1.1 GB in bfloat16 is written to a temporary folder (about 4 GB are needed there, and as much
memory). Each case runs in a process of its own; what the libraries take, measured with a tiny checkpoint before, is
subtracted. Files that are mapped into memory count while they are. `--check` exits with 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# the goals; None: no promise
LIMITS = {"load": 1.15, "load in 8 bits": None, "load in 4 bits": None, "merge": 1.3, "convert": 1.3}
LARGE = {"hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 12, "num_attention_heads": 12}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
ROWS = 32_000

# what a case does with a folder; run twice in one process, with the small one first
CASES = {
    "load": "from unmask.models.checkpoints import load_model\nkept = load_model(folder + '/model')",
    "load in 8 bits": "from unmask.models.checkpoints import load_model\n"
    "kept = load_model(folder + '/model', quantization='8bit')",
    "load in 4 bits": "from unmask.models.checkpoints import load_model\n"
    "kept = load_model(folder + '/model', quantization='4bit')",
    "merge": "from unmask.convert.merge import merge_adapter\n"
    "kept = merge_adapter(folder + '/adapter', folder + '/merged', base=folder + '/model')",
    "convert": "from unmask.convert.adapt import adapt\nfrom unmask.convert.options import AdaptArguments\n"
    "kept = adapt(folder + '/model', folder + '/converted', AdaptArguments())",
}
PROGRAM = """
import json, sys, threading, time
import psutil
me, peak, done = psutil.Process(), [0], threading.Event()

def watch():
    while not done.is_set():
        peak[0] = max(peak[0], me.memory_info().rss)
        time.sleep(0.002)

def work(folder):
    {case}
    if callable(getattr(kept, "parameters", None)):  # what is mapped but never read is not there yet
        sum(int(p.detach().view(-1)[:: 512].ne(0).sum()) for p in kept.parameters())
    return kept

work(sys.argv[1])
before = me.memory_info().rss
threading.Thread(target=watch, daemon=True).start()
started = time.perf_counter()
kept = work(sys.argv[2])
seconds = time.perf_counter() - started
done.set()
print(json.dumps({{"peak": peak[0] - before, "seconds": seconds}}))
"""


def write(folder: Path, size: dict[str, int]) -> int:
    """A model with random weights, a tokenizer and an adapter; the bytes of its weights."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from unmask.models.adapters import LoraSettings, attach_lora, save_adapter
    from unmask.models.checkpoints import load_model, save_model

    target = folder / "model"
    target.mkdir(parents=True)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": ROWS, **size}
    config |= {"num_key_value_heads": size["num_attention_heads"], "max_position_embeddings": 2048, "eos_token_id": 0}
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    backend = Tokenizer(models.WordLevel({"</s>": 0, "x": 1}, unk_token="x"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(target)
    model = load_model(target, from_scratch=True, dtype="bfloat16")
    save_model(model, target)
    attach_lora(model, LoraSettings(r=16))
    save_adapter(model, folder / "adapter")
    return sum(path.stat().st_size for path in target.glob("*.safetensors"))


def measure(case: str, small: Path, large: Path) -> dict[str, float]:
    """Bytes beyond what the libraries take, and seconds."""
    program = PROGRAM.format(case=CASES[case].replace("\n", "\n    "))
    done = subprocess.run(
        [sys.executable, "-c", program, str(small), str(large)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def line(row: dict[str, Any]) -> str:
    limit, peak = f"{row['limit']:.2f}" if row["limit"] else "-", f"{row['peak'] / 1e9:.2f} GB"
    return f"{row['case']:16}{peak:>10}{row['ratio']:>8.2f}{limit:>8}{row['seconds']:>8.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--layers", type=int, default=LARGE["num_hidden_layers"], help="fewer make it smaller")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a ratio is above its limit")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        write(small, SMALL)
        size = write(large, {**LARGE, "num_hidden_layers": options.layers})
        if not options.json:
            print(f"a checkpoint of {size / 1e9:.2f} GB\n{'':16}{'peak':>10}{'ratio':>8}{'limit':>8}{'time':>10}")
        for case in options.cases:
            if "bits" in case and find_spec("bitsandbytes") is None:
                print(f'{case}: left out, bitsandbytes is not installed (the extra "quant")', file=sys.stderr)
                continue
            found = measure(case, small, large)
            rows.append({"case": case, "ratio": found["peak"] / size, "limit": LIMITS[case], **found, "size": size})
            if not options.json:
                print(line(rows[-1]), flush=True)
    if options.json:
        print(json.dumps(rows))
    above = [row["case"] for row in rows if row["limit"] and row["ratio"] > row["limit"]]
    return 1 if options.check and above else 0


if __name__ == "__main__":
    sys.exit(main())
