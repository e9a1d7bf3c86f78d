"""MovieLens 100K: a small public log with times, ratings and titles."""

import hashlib
import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from catalog.errors import InputError, SetupError
from interactions.tables import filled, read_table

logger = logging.getLogger(__name__)

PACKAGE = "recbole==1.2.1"
FOLDER_IN_WHEEL = "recbole/dataset_example/ml-100k/"
SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
LICENSE = (
    "MovieLens 100K belongs to GroupLens Research, University of Minnesota: use it for research only, cite Harper and "
    "Konstan (2015), and do not pass it on or sell it without their permission."
)


def fetch_movielens_100k(cache: str | Path) -> Path:
    """The folder in `cache` with `ml-100k.inter` and `ml-100k.item`, downloaded with pip when it is not there yet.

    The files come out of RecBole's wheel, which is neither installed nor imported. Call it from one process at a time.
    Raises SetupError when the download or the disk fails, InputError when the files are not the known ones; nothing
    half-written stays behind.
    """
    folder = Path(cache) / "ml-100k"
    if _is_intact(folder):
        return folder
    partial = folder.with_name("ml-100k.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a call that was killed
    try:
        partial.mkdir(parents=True)
        _download(partial)
        if not _is_intact(partial):
            raise InputError(
                f"{PACKAGE} holds other MovieLens files than expected.", remedy="Check the package index pip uses."
            )
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise SetupError(
            f"MovieLens 100K could not be fetched into {folder} ({error}).",
            remedy="Check network and disk, then try again.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.warning(LICENSE)
    return folder


def read_titles(path: str | Path) -> dict[str, str]:
    """Item id -> title, with the year where it is known: `{"1": "Toy Story (1995)", ...}`, from `ml-100k.item`."""
    path = Path(path)
    table = read_table(path)
    items = filled(table, "item_id", path, "item_id")
    titles = filled(table, "movie_title", path, "movie_title")
    years = filled(table, "release_year", path, "release_year")
    titles = titles.where(~years.str.fullmatch(r"\d{4}"), titles + " (" + years + ")")
    return dict(zip(items, titles, strict=True))


def _is_intact(folder: Path) -> bool:
    return all(
        (folder / name).is_file() and hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in SHA256.items()
    )


def _download(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--no-deps", "--only-binary=:all:", PACKAGE, "-d", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"pip download {PACKAGE}: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(FOLDER_IN_WHEEL):
                (folder / Path(name).name).write_bytes(archive.read(name))
    wheel.unlink()
