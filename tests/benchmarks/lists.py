"""How fast a list is read in the place of a listing: python tests/benchmarks/lists.py [NUM_FILES]"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tlearn.data.names import Ignored
from tlearn.scoring import lists

FOLDER = "/data/inbox"
FORMS = ("list.parquet", "list.csv", "list.csv.gz", "list.txt")
NUM_ROWS = 1_000_000


def rows(start: int, count: int) -> pa.Table:
    """Paths of 90 bytes, sizes, times, e-tags; one in a hundred is no picture."""
    numbers = pa.array(np.arange(start, start + count))
    suffix = pc.if_else(pc.equal(pc.subtract(numbers, pc.multiply(pc.divide(numbers, 100), 100)), 0), ".txt", ".jpeg")
    names = [pc.divide(numbers, 1000).cast(pa.string()), numbers.cast(pa.string())]
    album, picture = "customers/region-eu-central-1/2026/11/album-", "/holiday-picture-of-the-whole-family-"
    return pa.table(
        {
            "path": pc.binary_join_element_wise(album, names[0], picture, names[1], suffix, ""),
            "size": pc.add(numbers, 100_000),
            "modified": pc.add(pc.multiply(numbers, 1000), 1_700_000_000_000).cast(pa.timestamp("ms", "UTC")),
            "etag": pc.binary_join_element_wise("d41d8cd98f00b204", names[1], ""),
        }
    )


def write(path: Path, num_files: int) -> None:
    sink = pa.output_stream(str(path))  # packs what ends in .gz
    schema = rows(0, 1).schema
    text = pa_csv.WriteOptions(include_header=False, quoting_style="none")
    kinds = {
        ".parquet": lambda: pq.ParquetWriter(sink, schema),
        ".csv": lambda: pa_csv.CSVWriter(sink, schema),
        ".txt": lambda: pa_csv.CSVWriter(sink, pa.schema([schema.field("path")]), write_options=text),
    }
    kind = path.name.removesuffix(".gz").removeprefix("list")
    with sink, kinds[kind]() as writer:
        for start in range(0, num_files, NUM_ROWS):
            table = rows(start, min(NUM_ROWS, num_files - start))
            writer.write_table(table.select(["path"]) if kind == ".txt" else table)


def measure(path: str) -> str:
    started, num_pictures, ignored = time.monotonic(), 0, Ignored()
    for table in lists.batches(lists.of([path], FOLDER), FOLDER, ignored):
        num_pictures += table.num_rows
    seconds, num_files = time.monotonic() - started, num_pictures + ignored.total()
    status = Path("/proc/self/status").read_text()  # ru_maxrss has the parent's peak in it
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    size = Path(path).stat().st_size / num_files
    return (
        f"{num_files:,} | {size:.0f} | {seconds:.1f} | {time.process_time():.1f} | "
        f"{num_files / seconds:,.0f} | {peak:.0f} |"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(measure(sys.argv[2]))
        sys.exit()
    most = int(sys.argv[1]) if sys.argv[1:] else 10_000_000
    print("| list | files | bytes a file | seconds | CPU seconds | files/s | peak MB |\n|---|---|---|---|---|---|---|")
    for form in FORMS:
        for num_files in (most // 10, most):
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder, form), num_files)
                command = [sys.executable, __file__, "measure", str(Path(folder, form))]
                line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                print(f"| {form.removeprefix('list')} | {line.strip()}", flush=True)
