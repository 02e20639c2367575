"""Worlds in which several people score one folder into one table, and everything fails; each follows from a number.

    python tests/simulation/simulate.py 12345                           # one world, with its trace
    python tests/simulation/simulate.py --seeds 1000000 --processes 2   # many; ends at the first that breaks a promise

What runs is the job of `tlearn score`: lease, plan, parts, merge, commit, recovery. Simulated are the storage, the
clock, the pool, Parquet's bytes and the database of the index.
"""

import argparse
import gc
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script it finds what tests share

from seams import enter, seams
from worlds import World

_AT_ONCE = 500
"""Worlds of a process before it says how it goes."""


def simulate(seed: int) -> World:
    """Run the world of a seed, within `seams`."""
    gc.disable()  # a world is small, and most of it is gone without
    try:
        world = World(seed)
        enter(world)
        world.run()
    finally:
        gc.enable()
    return world


def told(world: World, most: int = 60) -> str:
    """The end of a trace, and the sentence."""
    schedule = world.schedule
    lines = [str(step) for step in schedule.trace[-most:]]
    head = f"seed {world.seed}: {world.kind}, {'a growing table' if world.is_growing else 'a single file'}"
    head += f", {'with' if world.has_lease else 'without'} a lease, {world.rates}"
    return "\n".join([head, *lines, schedule.violation or "nothing was violated"])


def first_violation(seeds: range, about: str = "") -> int | None:
    """The first seed that breaks a promise, in a sentence with these words."""
    with seams():
        return next((seed for seed in seeds if (said := simulate(seed).schedule.violation) and about in said), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int, nargs="?")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.seed is not None:
        with seams():
            world = simulate(options.seed)
        print(told(world, 10**6))
        return int(world.schedule.violation is not None)
    started, done, end = time.monotonic(), 0, options.first + options.seeds
    parts = [range(start, min(start + _AT_ONCE, end)) for start in range(options.first, end, _AT_ONCE)]
    with ProcessPoolExecutor(options.processes) as pool:
        for part, found in zip(parts, pool.map(first_violation, parts), strict=True):
            done += len(part)
            if found is not None:
                with seams():
                    print(told(simulate(found)))
                pool.shutdown(cancel_futures=True)
                return 1
            print(f"{done:,} worlds, {done / (time.monotonic() - started):.0f} a second", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
