"""What the model reads and writes, as text."""

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from catalog import Trie
from catalog.tokens import item_words
from interactions.prompts import PromptBatch


def prompt_texts(batch: PromptBatch, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The B prompts as text, the start token included and the padding left out."""
    return tokenizer.batch_decode(batch.token_lists(), clean_up_tokenization_spaces=False)


def item_texts(items: Tensor, trie: Trie) -> list[str]:
    """The codes of items [n] as text, such as <a_3><b_7>: n texts of L words each."""
    return ["".join(words) for words in item_words(trie.codes(items), trie.sizes)]
