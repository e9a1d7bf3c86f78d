"""One token per code: a fresh word-level tokenizer, or a pretrained one extended."""

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from catalog.errors import InputError
from catalog.trie import Trie

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
MOST_LEVELS = 26
"""Words are lettered a to z."""


def code_words(sizes: tuple[int, ...]) -> list[str]:
    """The words <a_0>, <a_1>, ..., <b_0>, ... of every level's codes; the layout of LETTER and LC-Rec."""
    if len(sizes) > MOST_LEVELS:
        raise InputError(f"{len(sizes)} levels: words are lettered a to z, so at most {MOST_LEVELS} can be written.")
    return [f"<{chr(ord('a') + level)}_{code}>" for level, size in enumerate(sizes) for code in range(size)]


def code_offsets(sizes: tuple[int, ...]) -> Tensor:
    """Where the words of each level begin in `code_words`: [L]."""
    return torch.tensor([0, *sizes[:-1]]).cumsum(0)


def item_words(codes: Tensor, sizes: tuple[int, ...]) -> list[list[str]]:
    """The words of semantic IDs, codes [n, L]: n lists of L words."""
    words = code_words(sizes)
    return [[words[place] for place in row] for row in (codes.cpu() + code_offsets(sizes)).tolist()]


def word_tokenizer(sizes: tuple[int, ...]) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are the codes and four special tokens, for a backbone trained from scratch."""
    words = [*SPECIAL.values(), *code_words(sizes)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"<[^<>]+>"), "isolated")
    tokenizer.decoder = decoders.Fuse()  # no spaces between codes, so that text can be read back
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase, sizes: tuple[int, ...]) -> int:
    """Add a token for every code to a pretrained tokenizer, in place; returns how many were new.

    The model's embeddings must then be resized to len(tokenizer).
    """
    # a normalized token is not found behind another one where the tokenizer puts a space before every text
    before = len(tokenizer)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in code_words(sizes)])
    return len(tokenizer) - before  # add_tokens also counts words that were there


def node_tokens(tokenizer: PreTrainedTokenizerBase, trie: Trie) -> Tensor:
    """The token on the edge into each trie node: [nodes] int64, 0 for the root, which has none.

    Raises InputError where a code is not exactly one token, so that sampled and trained tokens could differ.
    """
    words = code_words(trie.sizes)
    encoded = tokenizer(words, add_special_tokens=False)["input_ids"]
    for word, ids in zip(words, encoded, strict=True):
        if tokenizer.convert_ids_to_tokens(ids) != [word]:
            raise InputError(
                f"The tokenizer turns the code {word} into {tokenizer.convert_ids_to_tokens(ids)}.",
                remedy="Every code must be one token: call extend_tokenizer(tokenizer, sizes) first.",
            )
    token = torch.tensor(encoded).flatten().to(trie.key.device)  # [sum of sizes]
    first = code_offsets(trie.sizes).to(token.device)  # [L]
    nodes = torch.arange(1, trie.nodes, device=token.device)
    level = torch.bucketize(nodes, torch.tensor(trie.level_start[1:], device=token.device), right=True) - 1
    return torch.cat([token.new_zeros(1), token[first[level] + trie.code(nodes)]])


def code_of_token(tokens: Tensor, trie: Trie, vocabulary: int) -> Tensor:
    """The code that each token of a vocabulary writes: tokens [nodes] of `node_tokens` -> [vocabulary], -1 for none."""
    code = torch.full((vocabulary,), -1, device=tokens.device)
    code[tokens[1:]] = trie.code(torch.arange(1, trie.nodes, device=tokens.device))
    return code
