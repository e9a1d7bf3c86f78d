"""The catalog: its items, their semantic IDs as a trie, and where it is kept."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig

from catalog.errors import InputError
from catalog.files import complete, file_digest, read_json, write_json
from catalog.text_column import TextColumn, first_repeated
from catalog.tokens import MOST_LEVELS
from catalog.trie import Trie

logger = logging.getLogger(__name__)

Collisions = Literal["extend", "keep"]

TENSORS, TEXTS, RECORD = "catalog.safetensors", "catalog.arrow", "catalog.json"
MOST_CODES = 1_000_000
"""Codes of all levels together, each of which is a token of the vocabulary."""


class Ancestor(NamedTuple):
    """A catalog that another one grew from: its fingerprint, and how many items it had."""

    fingerprint: str
    items: int


@dataclass(frozen=True)
class Catalog:
    """What can be recommended. Item i has the id `item_ids[i]` in the log and the semantic ID `trie.codes(i)`.

    titles: what people call the items, "" for one without a title; empty where none has one. `names` falls back to ids.
    Both may be given as any sequence of str.
    leaf_is_item: whether a leaf holds exactly one item; if not, a hit counts semantic IDs and not items.
    grown_from: the catalogs that this one has grown from by `grow`, oldest first; their items are its first ones.
    """

    trie: Trie
    item_ids: Sequence[str]
    titles: Sequence[str]
    grown_from: tuple[Ancestor, ...] = ()

    def __post_init__(self) -> None:
        for name in ("item_ids", "titles"):
            object.__setattr__(self, name, TextColumn(getattr(self, name)))

    @property
    def leaf_is_item(self) -> bool:
        return self.trie.leaves == self.trie.items

    @property
    def names(self) -> Sequence[str]:
        """What an item is called where people read it: its title, or its id where it has none."""
        if not self.titles:
            return self.item_ids
        return tuple(title or item for title, item in zip(self.titles, self.item_ids, strict=True))

    @property
    def fingerprint(self) -> str:
        """Differs between catalogs that give any item another semantic ID; written into every checkpoint's config."""
        digest = _joined_digest(self.item_ids, "\n", str)
        for tensor in (self.trie.key, self.trie.leaf_of_item):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def titles_digest(self) -> str:
        """Differs between catalogs in which any item has another title; prompts may hold titles."""
        return _joined_digest(self.titles, ", ", json.dumps, "[]").hexdigest()[:16]

    def check_trained(self, config: PretrainedConfig) -> None:
        """Raise InputError where a model's codes mean other items.

        It must have been trained for this catalog, or for one that this one has grown from.
        """
        known = getattr(config, "catalog_fingerprint", None)
        if known is not None and not self.continues(known):
            raise InputError(
                f"The model was trained for catalog {known}, not for {self.fingerprint}: its codes mean other items.",
                remedy="Give the folder of data it was trained with, or train again.",
                field="catalog_fingerprint",
                value=known,
            )

    def continues(self, fingerprint: str) -> bool:
        """Whether this is the catalog of that fingerprint, or one that grew from it.

        Raises InputError where the record says so and the first items have other ids or semantic IDs than then.
        """
        if fingerprint == self.fingerprint:
            return True
        items = dict(self.grown_from).get(fingerprint)
        if items is None:
            return False
        if (found := self.first(items).fingerprint) != fingerprint:
            raise InputError(
                f"The catalog says that it grew from {fingerprint}, and its first {items} items are of {found}: "
                "semantic IDs have moved.",
                remedy="Extend the prepared folder of the older catalog again.",
                field="grown_from",
                value=fingerprint,
            )
        return True

    def first(self, items: int) -> "Catalog":
        """The catalog of the first items alone, with the same codes at each level."""
        codes = self._codes()[:items]
        return Catalog(Trie.build(codes, self.trie.sizes), self.item_ids[:items], self.titles[:items])

    def _codes(self) -> np.ndarray:
        """The semantic ID of every item, [items, L]."""
        return self.trie.codes(torch.arange(self.trie.items, device=self.trie.key.device)).cpu().numpy()

    def grow(self, item_ids: Sequence[str], codes: np.ndarray, titles: Sequence[str] = ()) -> "Catalog":
        """This catalog with further items behind its own, which keep their numbers and semantic IDs.

        codes: [new, L], of the codes that each level has, since a trained model has a token for no other. Items with
        equal codes share a leaf. titles: "" for an item without one, or none at all.

        Raises InputError for items that are here already or are listed twice, and for codes that a level lacks.
        """
        known = set(self.item_ids)
        if there := [item for item in item_ids if item in known]:
            raise InputError(
                f"Item {there[0]!r} is in the catalog already ({len(there)} such items).",
                remedy="Leave it out: an item keeps its semantic ID.",
                row=there[0],
                field="item_ids",
                value=there[0],
            )
        own = self._codes()
        if codes.ndim != 2 or codes.shape[1] != own.shape[1]:
            raise InputError(
                f"New codes of shape {list(codes.shape)} for semantic IDs of {own.shape[1]} levels.",
                remedy="Give each new item one code a level.",
                field="codes",
                value=codes.shape,
            )
        named: tuple[str, ...] = ()
        if self.titles or titles:
            named = (*(self.titles or [""] * len(self)), *(titles or [""] * len(item_ids)))
        grown = Catalog.from_codes(
            (*self.item_ids, *item_ids),
            np.concatenate([own, codes]),
            on_collision="keep",
            sizes=self.trie.sizes,
            titles=named,
        )
        return replace(grown, grown_from=(*self.grown_from, Ancestor(self.fingerprint, len(self))))

    def __len__(self) -> int:
        return len(self.item_ids)

    @classmethod
    def from_codes(
        cls,
        item_ids: Sequence[str],
        codes: np.ndarray,
        *,
        on_collision: Collisions = "extend",
        sizes: Sequence[int] | None = None,
        titles: Sequence[str] = (),
    ) -> "Catalog":
        """A catalog from semantic IDs [items, L].

        on_collision: "extend" appends one code that tells items with equal codes apart, so that a leaf is an item;
        "keep" lets a leaf hold several. Where no codes are equal both leave the codes as they are.
        sizes: the number of codes of each level; by default one more than the largest in use.

        Raises InputError for repeated items, for another number of rows than items and for codes outside `sizes`.
        """
        if len(item_ids) != len(codes) or not codes.size:
            raise InputError(
                f"{len(item_ids)} items with codes of shape {codes.shape}.", remedy="Give each item a row of codes."
            )
        ids = TextColumn(item_ids)
        if (repeated := first_repeated(ids)) is not None:
            raise InputError(f"Item {repeated!r} is listed twice in the catalog.", remedy="Keep one of its rows.")
        if len(titles) not in (0, len(item_ids)):
            raise InputError(
                f"{len(item_ids)} items with {len(titles)} titles.", remedy='Give each item a title, "" for none.'
            )
        sizes = tuple(sizes or (code + 1 for code in codes.max(0).tolist()))
        _check_sizes(sizes)
        if (codes.min(0) < 0).any() or (codes.max(0) >= sizes).any():
            item, level = np.argwhere((codes < 0) | (codes >= np.array(sizes)))[0].tolist()
            raise InputError(
                f"Item {item_ids[item]!r} has code {codes[item, level]} at level {level + 1}, which holds the codes "
                f"0 to {sizes[level] - 1}.",
                remedy="Correct the index or the stated size.",
            )
        trie = Trie.build(codes, sizes)
        if not trie.leaf_is_item:
            rank = trie.rank_in_leaf
            logger.info("%d of %d items share their codes with an earlier item", (rank > 0).sum(), len(codes))
            if on_collision == "extend":
                sizes = (*sizes, int(rank.max()) + 1)
                _check_sizes(sizes)
                trie = Trie.build(np.c_[codes, rank], sizes)
        return cls(trie, ids, titles)

    def save(self, folder: str | Path) -> None:
        """Write catalog.safetensors (the trie), catalog.arrow (ids and titles) and catalog.json (the rest) there.

        If one of them cannot be written, all stay as they were.
        """
        folder = Path(folder)
        table: dict[str, Any] = {"level_start": self.trie.level_start, "sizes": self.trie.sizes}
        with complete(folder / TENSORS) as tensors:
            save_file({name: getattr(self.trie, name) for name in Trie.TENSORS}, tensors)
            with complete(folder / TEXTS) as texts:
                titles = {"title": TextColumn(self.titles).column} if self.titles else {}
                named = pa.table({"id": TextColumn(self.item_ids).column} | titles)
                with texts.open("wb") as file, pa.ipc.new_file(file, named.schema) as writer:
                    writer.write_table(named)
                table["grown_from"] = [one._asdict() for one in self.grown_from]
                table["sha256"] = {TENSORS: file_digest(tensors), TEXTS: file_digest(texts)}
                write_json(folder / RECORD, table)

    @classmethod
    def load(cls, folder: str | Path) -> "Catalog":
        """The catalog that `save` wrote; its ids and titles stay in the file, which is mapped.

        Raises InputError where a file is missing, or is another one than catalog.json was written with.
        """
        folder = Path(folder)
        table = read_json(folder / RECORD, "The catalog")
        if "sha256" not in table:
            raise InputError(
                f"{folder} holds a catalog of an earlier version.",
                remedy="Prepare the data again.",
                file=folder / RECORD,
            )
        try:
            for name, digest in table["sha256"].items():
                if file_digest(folder / name) != digest:
                    raise InputError(
                        f"{folder} holds no whole catalog: {name} was changed or cut since catalog.json was written.",
                        remedy="Write it again.",
                        file=folder / name,
                    )
            tensors = load_file(folder / TENSORS)
            trie = Trie(**tensors, level_start=tuple(table["level_start"]), sizes=tuple(table["sizes"]))
            texts = pa.ipc.open_file(pa.memory_map(str(folder / TEXTS))).read_all()
            ids, titles = (
                texts[name].combine_chunks() if name in texts.column_names else () for name in ("id", "title")
            )
            return cls(trie, ids, titles, tuple(Ancestor(**one) for one in table["grown_from"]))
        except InputError:
            raise
        except (OSError, ValueError, SafetensorError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder} holds no whole catalog ({error}).", remedy="Write it again.", file=folder
            ) from error


def _joined_digest(texts: Sequence[str], between: str, form: Callable[[str], str], around: str = "") -> "hashlib._Hash":
    """The SHA-256 of the texts in some form with `between` between them and one letter of `around` on each side."""
    digest = hashlib.sha256(around[:1].encode())
    for number, part in enumerate(TextColumn(texts).parts()):
        digest.update(((between if number else "") + between.join(map(form, part))).encode())
    digest.update(around[1:].encode())
    return digest


def _check_sizes(sizes: Sequence[int]) -> None:
    """Raise InputError for more codes or levels than there are words, before a tensor of that size is made."""
    if sum(sizes) > MOST_CODES:
        level = int(np.argmax(sizes))
        raise InputError(
            f"Semantic IDs of {sum(sizes):,} different codes, {sizes[level]:,} of them at level {level + 1}: each code "
            f"is a token with an embedding, and at most {MOST_CODES:,} are allowed.",
            remedy="Number the codes of each level from 0 without gaps, or take more levels of fewer codes.",
            field="sizes",
            value=tuple(sizes),
        )
    if len(sizes) > MOST_LEVELS:
        raise InputError(
            f"Semantic IDs of {len(sizes)} levels: they are lettered a to z, so at most {MOST_LEVELS} can be written.",
            remedy="Take fewer levels.",
            field="sizes",
            value=tuple(sizes),
        )


def collision_rank(codes: np.ndarray) -> np.ndarray:
    """Each item's position [items] among the items with the same codes [items, L]: 0 for the first of every group."""
    return Trie.build(codes, tuple(codes.max(0) + 1)).rank_in_leaf
