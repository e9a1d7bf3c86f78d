"""Whether a folder holds a whole policy: that of a finished run, or of a checkpoint."""

from pathlib import Path

from catalog.errors import InputError
from catalog.files import MARKER, broken


def finished(folder: str | Path) -> bool:
    """Whether a folder holds the whole policy of a run that has ended."""
    return broken(Path(folder)) is None


def check_finished(folder: str | Path) -> None:
    """Raise InputError for a local folder that holds only a part of a policy.

    That is a run that has not ended, a damaged checkpoint, or a checkpoint without a tokenizer, for which transformers
    would make up an empty one. Names of a hub and checkpoints of other programs pass.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    ours = any((folder / name).is_file() for name in (MARKER, "resolved.yaml"))
    if ours and (reason := broken(folder, contents=True)):
        raise InputError(
            f"{folder} is not a finished run: {reason}",
            remedy="Start it again with --resume_from_checkpoint true, or name one of its checkpoints.",
            file=folder,
        )
    has_tokenizer = any(any(folder.glob(pattern)) for pattern in ("*token*", "vocab*", "*.model"))
    if (folder / "config.json").is_file() and not has_tokenizer:
        raise InputError(
            f"{folder} has no tokenizer, so the tokens of its codes are not known.",
            remedy="Put the tokenizer's files beside the weights.",
            file=folder,
        )
