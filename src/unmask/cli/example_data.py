"""`--create_example_data`: a file of our own made-up rows to train on, so that a first run needs no download."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS = 2000


def example_file(verb: str) -> Path:
    """The file with example rows for a verb; written to the user's cache once, the same everywhere."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = cache / "unmask" / f"example-{'conversations' if verb == 'sft' else 'texts'}-{ROWS}.jsonl"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        # Several processes of one run may come here together; each moves a whole file into place.
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.write_text("".join(f"{json.dumps(row)}\n" for row in _rows(verb)), encoding="utf-8")
        draft.replace(file)
    return file


def _rows(verb: str) -> Iterator[dict[str, Any]]:
    from unmask.data.table_questions import message_records
    from unmask.data.tables import TableOptions, text_records

    return message_records(TableOptions(), ROWS) if verb == "sft" else text_records(TableOptions(), ROWS)
