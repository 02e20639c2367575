"""What TensorBoard shows of a run beside its curves: settings, confusion matrix, mistakes."""

import contextlib
import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from tlearn.config.values import flat

_CELL, _NAME = 40, 120
"""Pixels of the confusion matrix: a cell, the names beside it."""
_MAX_CLASSES = 30
"""Of which a matrix can be read."""
_MAX_MISTAKES = 12


def writer() -> Any:
    """The class of TensorBoard's writers of events, which takes a moment to load."""
    # Where TensorFlow is installed, TensorBoard would load it for opening files, and torch's compiler, loaded after it,
    # would end the process: both hold an LLVM. By this module TensorBoard knows that it is to do without.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


def write_result(folder: Path) -> None:
    """Add what the files of a finished run say to its events."""
    open_events = writer()
    from torch.utils.tensorboard.summary import hparams

    settings = flat(json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"])
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rows = pq.read_table(folder / "validation.parquet", columns=["label", "prediction"]).to_pylist()
    step = summary["best_epoch"]
    with open_events(str(folder)) as board:
        known = {name: value if isinstance(value, int | float) else str(value) for name, value in settings.items()}
        figures = {f"final/{name}": summary[name] for name in ("val_accuracy", "val_loss")}
        # SummaryWriter.add_hparams writes into a folder of its own, as if it were another run.
        for part in hparams(known, figures):
            board.file_writer.add_summary(part)
        for name, value in figures.items():
            board.add_scalar(name, value, step)
        lines = [f"| {name} | {value} |" for name, value in settings.items()]
        board.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *lines]), step)
        if len(summary["classes"]) <= _MAX_CLASSES:
            matrix = _matrix(summary["classes"], Counter((row["label"], row["prediction"]) for row in rows))
            board.add_image("confusion matrix (true class, as what)", np.asarray(matrix), step, dataformats="HWC")
        for number, picture in enumerate(_mistakes(folder / "pictures.parquet"), 1):
            board.add_image(f"mistakes/{number:02}", np.asarray(picture), step, dataformats="HWC")


def _matrix(classes: Sequence[str], counts: Counter[tuple[str, str]]) -> Image.Image:
    """A row for each true class, a column for each prediction; the darker, the larger its share of the row."""
    size = _NAME + _CELL * len(classes)
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    for row, label in enumerate(classes):
        top = _NAME + row * _CELL
        draw.text((4, top + _CELL // 3), _fitting(label, _NAME), "black")
        total = sum(counts[label, other] for other in classes) or 1
        for column, prediction in enumerate(classes):
            left, count = _NAME + column * _CELL, counts[label, prediction]
            light = round(255 * (1 - count / total))
            draw.rectangle((left, top, left + _CELL - 2, top + _CELL - 2), (light, light, 255))
            draw.text((left + _CELL // 3, top + _CELL // 3), str(count), "black" if light > 100 else "white")
    turned = Image.new("RGB", (_NAME, _CELL * len(classes)), "white")
    for column, prediction in enumerate(classes):
        ImageDraw.Draw(turned).text((4, column * _CELL + _CELL // 3), _fitting(prediction, _NAME), "black")
    image.paste(turned.transpose(Image.Transpose.ROTATE_90), (_NAME, 0))
    return image


def _mistakes(table: Path) -> list[Image.Image]:
    """The pictures of validation of whose wrong class the model was surest, with what it said written below."""
    with contextlib.suppress(FileNotFoundError):
        columns = ["split", "label", "prediction", "probability", "thumbnail"]
        rows = pq.read_table(table, columns=columns, filters=[("split", "==", "val")]).to_pylist()
        wrong = [row for row in rows if row["thumbnail"] and row["prediction"] != row["label"]]
        return [_captioned(row) for row in sorted(wrong, key=lambda row: -row["probability"])[:_MAX_MISTAKES]]
    return []


def _captioned(row: dict[str, Any]) -> Image.Image:
    with Image.open(io.BytesIO(row["thumbnail"])) as picture:
        image = Image.new("RGB", (max(picture.width, 160), picture.height + 30), "white")
        image.paste(picture.convert("RGB"))
    text = f"{row['prediction']} {row['probability']:.3f}\nis {row['label']}"
    ImageDraw.Draw(image).multiline_text((2, image.height - 28), text, "black", spacing=1)
    return image


def _fitting(name: str, width: int) -> str:
    return name if len(name) <= width // 7 else f"{name[: width // 7 - 1]}\u2026"
