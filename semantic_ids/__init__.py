"""The item tokenizer: what makes semantic IDs.

- `vectors`: item vectors to make them from: of interactions, files or titles, one kind or several fused
- `interaction_vectors`: those of training interactions alone, for catalogues without text
- `quantizer`: vectors into codes: `residual_kmeans` or `rq_vae`, by name in `QUANTIZERS`
- `index`: codes from a file: LETTER, LC-Rec, MiniOneRec or plain JSON
- `prepare`: a log into a folder with the catalogue and the splits; `settings` are its settings
"""

from semantic_ids.index import colliding, read_index, write_index
from semantic_ids.quantizer import QUANTIZERS, Quantized, residual_kmeans, rq_vae

__all__ = ["QUANTIZERS", "Quantized", "colliding", "read_index", "residual_kmeans", "rq_vae", "write_index"]
