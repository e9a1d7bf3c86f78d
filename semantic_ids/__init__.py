"""The item tokenizer: what makes semantic IDs.

- `item_vectors` (`vectors`): what they are made from: interactions, files or titles, one kind or several fused
- `interaction_vectors`: those of training interactions alone, for catalogues without text
- `quantizer`: vectors into codes: `residual_kmeans` or `rq_vae`, by name in `QUANTIZERS`
- `index`: codes from a file: LETTER, LC-Rec, MiniOneRec or plain JSON
- `prepare` (`preparation`): a log into a folder with the catalogue and the splits; `settings` are its settings
"""

from typing import TYPE_CHECKING

from catalog.on_demand import on_demand

if TYPE_CHECKING:
    from semantic_ids.index import colliding, read_index, write_index
    from semantic_ids.preparation import check_prepared, prepare
    from semantic_ids.quantizer import QUANTIZERS, Quantized, residual_kmeans, rq_vae
    from semantic_ids.settings import DataArguments
    from semantic_ids.vectors import item_vectors
else:
    __getattr__ = on_demand(
        __name__,
        {
            "index": ("colliding", "read_index", "write_index"),
            "preparation": ("check_prepared", "prepare"),
            "quantizer": ("QUANTIZERS", "Quantized", "residual_kmeans", "rq_vae"),
            "settings": ("DataArguments",),
            "vectors": ("item_vectors",),
        },
    )

__all__ = [
    "QUANTIZERS",
    "DataArguments",
    "Quantized",
    "check_prepared",
    "colliding",
    "item_vectors",
    "prepare",
    "read_index",
    "residual_kmeans",
    "rq_vae",
    "write_index",
]
