"""`unmask merge`: an adapter folded into its base. Parsing and printing; the work is `convert.merge`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Literal

from unmask.cli import sampling
from unmask.cli.config import parse
from unmask.cli.options import OptionTable
from unmask.errors import ConfigError

DOES = "Fold a LoRA, rsLoRA or DoRA adapter into its base, on the CPU: the result is a checkpoint like any other."
EXAMPLES = """\
example:
  unmask merge --lora_path runs/lora --merge_path merged
"""


@dataclass(frozen=True)
class MergeArguments:
    """What is folded into what"""

    lora_path: str | None = None
    """Folder or Hub id of the adapter; the folder of a finished run is one."""
    base_model_path: str | None = None
    """Folder or Hub id of its base; the one that the adapter names unless given."""
    merge_path: str | None = None
    """Folder to write; must be absent or empty."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights written; auto: as in the base."""
    base_as_stored: bool = False
    """Fold into the base's full weights even where the adapter was trained on 4 or 8 bits of them."""
    json: bool = False
    """Print what was written as one JSON object."""


def run(argv: list[str]) -> int:
    """Run `unmask merge`."""
    parsed = parse(argv, OptionTable("merge", DOES, (MergeArguments,)))
    if parsed is None:
        print(EXAMPLES)
        return 0
    sampling.say_notes(parsed)
    for name in ("lora_path", "merge_path"):
        if not parsed[name]:
            raise ConfigError(f"--{name} is missing. Example: unmask merge --lora_path runs/lora --merge_path merged")
    sampling.quieten()
    from unmask.convert.merge import merge_adapter

    paths = {name: parsed[name] and os.path.expanduser(parsed[name]) for name in ("lora_path", "base_model_path")}
    merged = merge_adapter(
        paths["lora_path"],
        parsed["merge_path"],
        base=paths["base_model_path"],
        dtype=parsed["dtype"],
        base_as_stored=parsed["base_as_stored"],
    )
    if parsed["json"]:
        print(json.dumps(asdict(merged), ensure_ascii=False))
    else:
        if merged.held_in:
            bits = merged.held_in.removesuffix("bit")
            print(
                f"the adapter was trained on a base held in {bits} bits, and is folded into what these say; "
                "--base_as_stored folds it into the full weights"
            )
        print(f"{merged.changed} of {merged.tensors} weights changed; {merged.dtype}; written to {merged.folder}")
    return 0
