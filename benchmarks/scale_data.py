"""What data of a size costs before a model is made: `prepare` of a log, the trie and the files of a catalog.

python benchmarks/scale_data.py prepare 10000000
python benchmarks/scale_data.py catalog 10000000
python benchmarks/scale_data.py trie 10000000
python benchmarks/scale_data.py vectors 10000000

benchmarks/scale.py runs all four. Each is measured in a process of its own, since the highest resident memory is that
of a process: libraries included. The last line is JSON: CPU seconds of one thread, and gigabytes (10^9 bytes).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from catalog import Catalog, Trie
from catalog.text_column import TextColumn

WIDTH, LEVELS = 256, 4


def write_log(path: Path, events: int) -> list[str]:
    """A CSV log of events / 10 users and events / 20 items, a few much more popular than most; the ids of its items."""
    rng, items = np.random.default_rng(0), events // 20
    columns = {
        "user": rng.integers(0, events // 10, events).astype("U"),
        "item": (items * rng.random(events) ** 3).astype(int).astype("U"),
        "timestamp": rng.integers(1_500_000_000, 1_700_000_000, events),
    }
    for name, letter in (("user", "u"), ("item", "i")):
        columns[name] = np.char.add(letter, columns[name])
    pyarrow.csv.write_csv(pa.table(columns), path)
    return [f"i{number}" for number in range(items)]


def apart(make: Callable[[], None]) -> None:
    """Call `make` in a process of its own, so that what it takes does not count."""
    if os.fork() == 0:
        make()
        os._exit(0)
    os.wait()


def prepare_log(events: int, folder: Path) -> Callable[[], None]:
    """`prepare` of a log of `events` in CSV with vectors of its items."""
    from semantic_ids import prepare

    def log_and_vectors() -> None:
        ids = write_log(folder / "log.csv", events)
        vectors = np.random.default_rng(1).standard_normal((len(ids), 32), np.float32)
        np.savez(folder / "vectors.npz", ids=np.array(ids), vectors=vectors)

    apart(log_and_vectors)
    given = {"vectors": [str(folder / "vectors.npz")], "codebook_sizes": [WIDTH] * 3, "min_interactions": 5}
    return lambda: print(prepare(folder / "log.csv", folder / "data", **given)["interactions"], "interactions are left")


def own_vectors(events: int, folder: Path) -> Callable[[], None]:
    """The vectors that `prepare` makes of a log of `events` where none are given."""
    from interactions import load_prepared
    from semantic_ids.vectors import INTERACTION_VECTORS

    apart(prepare_log(events, folder))
    catalog, splits = load_prepared(folder / "data")
    return lambda: print(len(INTERACTION_VECTORS["cooccurrence"](splits, len(catalog), 0)), "vectors")


def random_codes(items: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, WIDTH, (items, LEVELS))


def build_trie(items: int, folder: Path) -> Callable[[], None]:
    """The trie of random semantic IDs."""
    codes = random_codes(items)
    return lambda: print(Trie.build(codes, (WIDTH,) * LEVELS).bytes / items, "bytes an item")


def catalog_files(items: int, folder: Path) -> Callable[[], None]:
    """A catalog of random semantic IDs: built, saved and loaded."""
    codes, ids = random_codes(items), TextColumn(pa.array(np.arange(items)).cast(pa.large_string()))

    def run() -> None:
        Catalog.from_codes(ids, codes, on_collision="keep").save(folder)
        print(len(Catalog.load(folder)), "items")

    return run


PARTS = {"prepare": prepare_log, "trie": build_trie, "catalog": catalog_files, "vectors": own_vectors}


def measured(part: str, size: int) -> dict[str, float]:
    """Seconds and gigabytes of a part, from a process of its own; `first` is the number that it said."""
    command = [sys.executable, __file__, part, str(size)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=one_thread).stdout.splitlines()
    return json.loads(said[-1]) | {"first": float(said[-2].split()[0])}


def data_figures(size: int) -> dict[str, float]:
    """The figures of all parts at a size, by names such as `prepare_10m_seconds`."""
    name = f"{size // 1_000_000}m" if size >= 1_000_000 else f"{size // 1000}k"
    found = {part: measured(part, size) for part in PARTS}
    return {
        f"prepare_{name}_seconds": found["prepare"]["seconds"],
        f"prepare_{name}_gb": found["prepare"]["gb"],
        f"trie_{name}_seconds": found["trie"]["seconds"],
        f"bytes_per_item_{name}": round(found["trie"]["first"], 1),
        f"catalog_{name}_seconds": found["catalog"]["seconds"],
        f"catalog_{name}_gb": found["catalog"]["gb"],
        f"vectors_{name}_seconds": found["vectors"]["seconds"],
        f"vectors_{name}_gb": found["vectors"]["gb"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("size", type=int, help="events of a log, items of a catalog")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = PARTS[args.part](args.size, Path(folder))
        started = time.process_time()
        run()
        seconds = time.process_time() - started
        gigabytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
        print(json.dumps({"seconds": round(seconds, 1), "gb": round(gigabytes, 2)}))


if __name__ == "__main__":
    main()
