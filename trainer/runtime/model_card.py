"""The model card of a checkpoint: what it is, how to use it, how it was trained, on what, and what was measured."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from catalog import Catalog
from catalog.files import MARKER, read_json
from evaluation.markdown import markdown_rows
from recommenders.policy_folder import PolicyRecord

SHOWN = (
    *("objective", "samplers", "sft_weight", "beta", "learning_rate", "num_train_epochs", "max_steps", "seed"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_history", "prompt_template"),
)
"""Settings of a run that its card shows, beside those of the reward."""


def model_card(
    record: PolicyRecord,
    catalog: Catalog,
    settings: Mapping[str, Any],
    *,
    rows: int,
    steps: int,
    measured: Mapping[str, float],
    data: str | None,
) -> str:
    """The card as Markdown with its header.

    settings: those of the run, as JSON has them. rows: of training. measured: metrics of the last evaluation in
    training. data: the prepared folder, None for rows that were given in Python.
    """
    header = ModelCardData(
        library_name="gflowgr", tags=["recommendation", "generative-recommendation", "semantic-ids", record.method]
    )
    shown = {name: settings[name] for name in SHOWN if settings.get(name) is not None} | dict(record.reward)
    table = [(name, str(value).replace("\n", "\\n")) for name, value in shown.items() if value is not None]
    figures = [(name.removeprefix("eval_"), f"{value:.4f}") for name, value in measured.items()]
    license = data_license(data) or "not stated; `prepare --license` states it"
    return f"""---
{header.to_yaml()}
---

# A generative recommender, trained by {record.method}

It writes the next item of a user as a semantic ID of {catalog.trie.levels} codes, inside the trie of a catalog of
{len(catalog):,} items. The catalog and the settings of its prompts lie beside the weights.

## Use

```python
from recommenders import GenerativeRecommender

recommender = GenerativeRecommender.from_pretrained("this folder or repository")
print(recommender.recommend([[{json.dumps(catalog.item_ids[0])}]], k={min(10, len(catalog))})[0].items)
```

## Training

{rows:,} rows, {steps:,} optimizer steps.

{markdown_rows(["setting", "value"], table)}

## Measured on held-out rows during training

{markdown_rows(["metric", "value"], figures) if figures else "Nothing was measured."}

## Data

{f"The prepared folder `{Path(data).name}`" if data else "Rows that were given in Python"}.
License of the data: {license}.

## Command

```bash
{command()}
```
"""


def data_license(data: str | None) -> str | None:
    """The license that a prepared folder states of its data, None where it states none."""
    if data is None or not (Path(data) / MARKER).is_file():
        return None
    return read_json(Path(data) / MARKER, "The marker")["of"].get("settings", {}).get("license")


def command() -> str:
    """How this process was started, without the place of the program."""
    program = Path(sys.argv[0])
    start = ["-m", f"recipes.{program.stem}"] if program.parent.name == "recipes" else [program.name]
    return shlex.join(["python", *start, *sys.argv[1:]])
