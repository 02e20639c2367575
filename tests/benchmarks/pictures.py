"""The README's two pictures, .github/terminal.svg and .github/report.png: python tests/benchmarks/pictures.py

Pictures are drawn, a model is trained on them and a folder scored with it; what these commands print is the first
picture, the report that they leave the second one (headless Chromium takes it). With --data the pictures are yours.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tlearn.demo import drawings

TARGET = Path(__file__).parents[2] / ".github"
WIDTH_COLUMNS = 110
COMMANDS = [
    "tlearn train photos/ --output runs/a",
    "tlearn score --model runs/a/model --input photos/test --output scores.parquet",
]
_SUMMARY = re.compile(r"^layer .*?(?=^parameters:)", re.DOTALL | re.MULTILINE)


def said(command: str, folder: Path) -> str:
    """What a command prints there. It must end well."""
    words = [sys.executable, "-m", *command.split()]
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stdout}")
    return _SUMMARY.sub("[...]\n", done.stdout)


def terminal(folder: Path) -> str:
    """The commands and what they print, as SVG that loads nothing."""
    console = Console(record=True, width=WIDTH_COLUMNS, file=io.StringIO(), force_terminal=True)
    for command in COMMANDS:
        console.print(Text(f"$ {command}", style="bold"))
        console.print(Text(said(command, folder)))
    svg = console.export_svg(title="tlearn")
    svg = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code", "ui-monospace, Menlo, Consolas")


def photograph(page: Path, target: Path) -> None:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("expected chromium for the picture of the report, found none: apt install chromium")
    with sync_playwright() as players:
        browser = players.chromium.launch(executable_path=program, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1280, "height": 1600})
        view.goto(page.as_uri())
        view.screenshot(path=target)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if data is None:
            drawings.draw_folder(folder / "photos", num_train=241, num_val=80, num_test=60, seed=0)
        else:
            (folder / "photos").symlink_to(data.resolve())
        svg = terminal(folder)
        photograph(folder / "runs/a/report.html", TARGET / "report.png")
        (TARGET / "terminal.svg").write_text(svg)


if __name__ == "__main__":
    main()
