"""The model card that a run writes beside its weights: what was trained, on what, how."""

from __future__ import annotations

import json
from pathlib import Path

from unmask.training.arguments import Settings

_CARD = """---
library_name: unmask
base_model: {base}
tags:
- masked-diffusion
---

# {name}

A masked diffusion language model, trained with `unmask` from `{base}` on `{data}`.

```python
import unmask

lm = unmask.load("path/to/this/folder")
```

Settings:

```json
{settings}
```
"""


def write_card(folder: Path, settings: Settings) -> None:
    """Write `README.md` into `folder`; an adapter's base is named, secrets are not part of the settings."""
    shown = {
        "data": settings.data.__dict__,
        "objective": settings.objective.__dict__,
        "adapter": {name: getattr(settings.model, name) for name in ("lora", "r", "lora_alpha", "target_modules")},
        "trainer": {name: value for name, value in settings.trainer.items() if "token" not in name},
    }
    name = Path(settings.trainer["output_dir"]).name
    text = json.dumps(shown, indent=2, sort_keys=True, default=str)
    card = _CARD.format(
        base=settings.model.model_name_or_path, name=name, data=settings.data.dataset_args, settings=text
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
