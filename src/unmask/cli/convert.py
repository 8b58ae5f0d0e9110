"""`unmask convert`: an autoregressive checkpoint as a diffusion model. Parsing and printing only."""

from __future__ import annotations

import json
import os

from unmask.cli import sampling
from unmask.cli.config import parse
from unmask.cli.options import Option, OptionTable
from unmask.errors import ConfigError

DOES = (
    "Turn an autoregressive Llama, Mistral, Qwen2 or Qwen3 into a masked diffusion model: attention in both "
    "directions, of the whole text or block by block, and a mask token. It has to be trained afterwards (pretrain, "
    "then sft)."
)
_COMMAND = (
    Option("model_name_or_path", str | None, None, "Folder or Hub id of the checkpoint; --model for short."),
    Option("output_dir", str | None, None, "Folder to write; must be absent or empty."),
    Option("json", bool, False, "Print the result as one JSON object."),
)


def table() -> OptionTable:
    """The options of the verb."""
    from unmask.convert.options import AdaptArguments

    return OptionTable("convert", DOES, (AdaptArguments,), (("The command", _COMMAND),))


def run(argv: list[str]) -> int:
    """Run `unmask convert`."""
    from unmask.convert.options import AdaptArguments

    parsed = parse(argv, table())
    if parsed is None:
        return 0
    for name in ("model_name_or_path", "output_dir"):
        if not parsed[name]:
            raise ConfigError(
                f"{name} is missing. Give --{name} {'FOLDER_OR_HUB_ID' if 'model' in name else 'FOLDER'}."
            )
    sampling.say_notes(parsed)
    options: AdaptArguments = parsed.build(AdaptArguments)  # type: ignore[assignment]

    from unmask.convert.adapt import adapt

    source, target = (os.path.expanduser(parsed[name]) for name in ("model_name_or_path", "output_dir"))
    done = adapt(source, target, options)
    if parsed["json"]:
        print(json.dumps({**vars(done), "folder": str(done.folder)}))
    else:
        print("\n".join(done.notes))
        print(f"saved {done.folder}: {done.family}, {done.parameters:,} weights")
        blocks = f" --objective block --block_size {done.block_size}" if done.block_size else ""
        print(f"now: unmask pretrain --model_name_or_path {done.folder}{blocks}")
    return 0
