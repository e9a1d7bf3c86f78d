"""The item tokenizer: what makes semantic IDs.

- `item_vectors` (`vectors`): what they are made from: interactions, files or titles, one kind or several fused
- `interaction_vectors`: those of training interactions alone, for catalogs without text
- `quantizer`: vectors into codes: `residual_kmeans` or `rq_vae`, by name in `QUANTIZERS`
- `codebooks`: what is kept of a quantizer, by which `extend` (`extension`) codes items that come later; `free_ids`: the
  nearest semantic ID that no item has
- `index`: codes from a file: LETTER, LC-Rec, MiniOneRec or plain JSON
- `prepare` (`preparation`): a log into a folder with the catalog and the splits; `settings` are its settings
"""

from typing import TYPE_CHECKING

from catalog.on_demand import on_demand

if TYPE_CHECKING:
    from semantic_ids.codebooks import Codebooks
    from semantic_ids.extension import extend, extend_prepared
    from semantic_ids.index import colliding, read_index, write_index
    from semantic_ids.preparation import check_prepared, prepare
    from semantic_ids.quantizer import QUANTIZERS, Quantized, residual_kmeans, rq_vae
    from semantic_ids.settings import DataArguments, ExtendArguments
    from semantic_ids.vectors import item_vectors
else:
    __getattr__ = on_demand(
        __name__,
        {
            "codebooks": ("Codebooks",),
            "extension": ("extend", "extend_prepared"),
            "index": ("colliding", "read_index", "write_index"),
            "preparation": ("check_prepared", "prepare"),
            "quantizer": ("QUANTIZERS", "Quantized", "residual_kmeans", "rq_vae"),
            "settings": ("DataArguments", "ExtendArguments"),
            "vectors": ("item_vectors",),
        },
    )

__all__ = [
    "QUANTIZERS",
    "Codebooks",
    "DataArguments",
    "ExtendArguments",
    "Quantized",
    "check_prepared",
    "colliding",
    "extend",
    "extend_prepared",
    "item_vectors",
    "prepare",
    "read_index",
    "residual_kmeans",
    "rq_vae",
    "write_index",
]
