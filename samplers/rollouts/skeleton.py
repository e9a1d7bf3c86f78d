"""The folder that a colocated engine starts from: architecture, tokenizer and catalog, without weights."""

import errno
import hashlib
import os
import shutil
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from catalog import Catalog
from catalog.errors import SetupError
from catalog.files import UNWRITABLE, broken, file_digest, seal

CACHE = "GFLOWGR_CACHE"
"""The environment variable that names the folder for what later runs can use again, by default ~/.cache/gflowgr."""


def cached_skeleton(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, catalog: Catalog) -> tuple[Path, Path]:
    """The folders of the model and of the catalog in the cache, named by their content and written where missing.

    Runs of the same architecture, vocabulary and catalog so start from the same path, which vLLM's cache of compiled
    kernels has in its keys. Any number of processes may ask at once, also on machines that share the cache's disk.
    Raises SetupError where the cache cannot be written.
    """
    root = Path(os.environ.get(CACHE) or "~/.cache/gflowgr").expanduser() / "engines"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=root, prefix=".") as temporary:
            new = Path(temporary) / "engine"
            _save_model(new, model, tokenizer)
            path = root / _digest(new, catalog)
            if not path.exists() or broken(path):
                catalog.save(new / "catalog")
                seal(new, {"catalog": catalog.fingerprint})
                _move(new, path)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise SetupError(
            f"The engine's folder could not be written under {root} ({error.strerror or error}).",
            remedy=f"Set the environment variable {CACHE} to a folder with free space.",
            file=root,
        ) from error
    return path, path / "catalog"


def save_skeleton(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, catalog: Catalog
) -> tuple[Path, Path]:
    """Write the same into a folder of one's own; returns the folders of the model and of the catalog."""
    _save_model(folder, model, tokenizer)
    catalog.save(folder / "catalog")  # not beside the config: vLLM takes any safetensors file there for weights
    return folder, folder / "catalog"


def _save_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """The architecture and the vocabulary are those of the model as it is trained, whatever it was loaded from."""
    base = getattr(model, "get_base_model", lambda: model)()  # of an adapter
    config = deepcopy(base.config)
    config.architectures = [type(base).__name__]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _digest(folder: Path, catalog: Catalog) -> str:
    digest = hashlib.sha256(repr((catalog.fingerprint, catalog.grown_from)).encode())
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {file_digest(path)}".encode())
    return digest.hexdigest()[:16]


def _move(new: Path, path: Path) -> None:
    """Rename, in one call; what another process has put there meanwhile has the same content and stays."""
    if path.exists():  # in part: a disk whose old files are deleted
        shutil.rmtree(path, ignore_errors=True)
    try:
        os.rename(new, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
