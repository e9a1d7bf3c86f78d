"""What the model reads and writes, as text."""

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from catalog import Trie
from catalog.tokens import code_words
from interactions.prompts import PromptBatch


def prompt_texts(batch: PromptBatch, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The B prompts as text, the start token included and the padding left out."""
    rows = zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True)
    ids = [[token for token, mask in zip(*row, strict=True) if mask] for row in rows]
    return tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)


def item_texts(items: Tensor, trie: Trie) -> list[str]:
    """The codes of items [n] as text, such as <a_3><b_7>: n texts of L words each."""
    first = torch.tensor([0, *trie.sizes[:-1]]).cumsum(0)  # [L], of each level's words
    words = code_words(trie.sizes)
    return ["".join(words[place] for place in row) for row in (trie.codes(items).cpu() + first).tolist()]
