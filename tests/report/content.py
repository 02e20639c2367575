"""Run folders and scored folders with every file that a page is made from, of drawn pictures.

python tests/report/content.py FOLDER [NUM_CLASSES [NUM_PICTURES]] writes some, with their pages, to look at.
"""

import dataclasses
import functools
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from tlearn.config import TrainConfig
from tlearn.report.page import write_report, write_scored

CLASSES = ("disc", "bar", "ring", "wedge")
ENDED = 1_700_000_000
MAP = pa.map_(pa.string(), pa.float32())
NEAREST = pa.list_(pa.struct([("path", pa.string()), ("label", pa.string()), ("similarity", pa.float32())]))
PICTURES = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "split", "label", "prediction")),
        ("probability", pa.float32()), ("probabilities", MAP), ("raw", MAP), ("status", pa.string()),
        ("width", pa.int32()), ("height", pa.int32()), ("bytes", pa.int64()), ("format", pa.string()),
        *((name, pa.float32()) for name in ("brightness", "contrast", "sharpness", "typicality")),
        ("nearest", NEAREST), ("cluster", pa.int32()), ("attention", pa.binary()), ("attention_rows", pa.int16()),
        ("thumbnail", pa.binary()),
    ]
)  # fmt: skip
LAYERS = pa.schema(
    [
        ("view", pa.string()), ("block", pa.int8()), ("channel", pa.int32()), ("rank", pa.int16()),
        ("path", pa.string()), ("value", pa.float32()), ("image", pa.binary()),
    ]
)  # fmt: skip


def jpeg(image: Image.Image, quality: int = 70) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def drawn(kind: int, rng: np.random.Generator, side: int = 96) -> tuple[Image.Image, tuple[float, float]]:
    """A shape on a shaded ground, and where it is."""
    light = rng.uniform(50, 205)
    ramp = np.linspace(-40, 40, side)
    ground = light + ramp[:, None, None] * rng.uniform(-1, 1, 3) + ramp[None, :, None] * rng.uniform(-1, 1, 3)
    image = Image.fromarray(np.clip(ground + rng.normal(0, 3, (side, side, 3)), 0, 255).astype(np.uint8))
    x, y = rng.uniform(0.3, 0.7, 2) * side
    r = rng.uniform(0.12, 0.26) * side
    draw, colour = ImageDraw.Draw(image), tuple(int(value) for value in rng.integers(0, 255, 3))
    box = (x - r, y - r, x + r, y + r)
    if kind == 0:
        draw.ellipse(box, fill=colour)
    elif kind == 1:
        draw.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=colour)
    elif kind == 2:
        draw.ellipse(box, outline=colour, width=max(2, int(r / 3)))
    else:
        draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
    return image, (x / side, y / side)


def attention(place: tuple[float, float], rows: int = 7) -> bytes:
    ys, xs = np.mgrid[0.5:rows, 0.5:rows] / rows
    near = np.exp(-((xs - place[0]) ** 2 + (ys - place[1]) ** 2) / 0.04)
    return (255 * near / near.max()).astype(np.uint8).tobytes()


@functools.cache
def drawing(kind: int, number: int, side: int) -> tuple[bytes, tuple[float, float], float, float]:
    """The file, the place of the shape, the brightness and the contrast."""
    image, place = drawn(kind, np.random.default_rng((kind, number)), side)
    pixels = np.asarray(image) / 255
    return jpeg(image), place, float(pixels.mean()), float(pixels.std())


def pictures(classes: tuple[str, ...], splits: dict[str, int], *, is_labelled: bool = True) -> list[dict[str, Any]]:
    """So many rows of each split; right more often than not, less often where a picture is dark."""
    rng = np.random.default_rng(len(classes))
    rows: list[dict[str, Any]] = []
    side = 96 if sum(splits.values()) < 1000 else 64
    for split, count in splits.items():
        for n in range(count):
            kind = n % len(classes)
            image, place, brightness, contrast = drawing(kind, len(rows), side)
            logits = rng.normal(size=len(classes)) + (1.0 if brightness < 0.3 else 4.0) * np.eye(len(classes))[kind]
            shares, raw = (np.exp(z) / np.exp(z).sum() for z in (logits, 2 * logits))
            prediction = int(shares.argmax())
            folder = f"{split}/{classes[kind]}" if is_labelled else "inbox"
            rows.append(
                {
                    "path": f"{folder}/{n:04}.jpg",
                    "split": split,
                    "label": classes[kind] if is_labelled else None,
                    "prediction": classes[prediction],
                    "probability": float(shares[prediction]),
                    "probabilities": dict(zip(classes, shares.tolist(), strict=True)),
                    "raw": dict(zip(classes, raw.tolist(), strict=True)),
                    "status": "scored" if is_labelled or shares.max() > 0.6 else "uncertain",
                    "width": int(rng.integers(90, 900)),
                    "height": int(rng.integers(90, 900)),
                    "bytes": 5000,
                    "format": "JPEG",
                    "brightness": brightness,
                    "contrast": contrast,
                    "sharpness": float(rng.uniform(0, 1)),
                    "typicality": float(rng.uniform(0.3, 0.95)),
                    "nearest": [],
                    "cluster": int(rng.integers(8)),
                    "attention": attention(place),
                    "attention_rows": 7,
                    "thumbnail": image,
                }
            )
    train = [row for row in rows if row["split"] == "train"]
    for row in rows:
        near = [train[int(n)] for n in rng.integers(len(train), size=3)] if train and row["split"] != "train" else []
        row["nearest"] = [
            {"path": of["path"], "label": of["label"], "similarity": 0.9 - n / 10} for n, of in enumerate(near)
        ]
        if row["split"] == "train":
            row |= dict.fromkeys(("prediction", "probability", "probabilities", "raw", "attention"))
    return rows


def layers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    shown = [row for row in rows if row["split"] == "val"][:4]
    of_picture = [
        ("picture", block, int(rng.integers(512)), rank, row)
        for row in shown
        for block in range(1, 6)
        for rank in range(4)
    ]
    of_channel = [
        ("channel", block, channel, rank, shown[rank])
        for block in range(1, 6)
        for channel in (3, 17, 40)
        for rank in range(4)
    ]
    found = []
    for view, block, channel, rank, row in [*of_picture, *of_channel]:
        grid = rng.uniform(0, 255, (2 ** (6 - block), 2 ** (6 - block))).astype(np.uint8)
        image = Image.fromarray(grid).resize((48, 48), Image.Resampling.BICUBIC)
        found.append(
            {
                "view": view,
                "block": block,
                "channel": channel,
                "rank": rank,
                "path": row["path"],
                "value": 9.5 - rank,
                "image": jpeg(image),
            }
        )
    return found


def findings(rows: list[dict[str, Any]]) -> dict[str, Any]:
    wrong = [row for row in rows if row["split"] == "val" and row["label"] != row["prediction"]][:5]
    suspects = [
        {"path": row["path"], "suggestion": f"relabel:{row['prediction']}", "score": 0.9, "beside": []} for row in wrong
    ]
    train = [row["path"] for row in rows if row["split"] == "train"]
    twins = [
        {
            "path": next(row["path"] for row in rows if row["split"] == "val"),
            "suggestion": "exclude",
            "score": 1.0,
            "beside": train[:1],
        }
    ]
    return {
        "findings": [
            {
                "kind": "wrong_label",
                "what": f"{len(wrong)} labels are probably wrong",
                "suspects": suspects,
                "advice": "Look at them; relabel or exclude.",
            },
            {
                "kind": "exact_duplicates",
                "what": "1 file is in validation and in training",
                "suspects": twins,
                "advice": "Exclude one of each.",
            },
        ],
        "seconds": 1.5,
        "depth": "features",
    }


def quality(rows: list[dict[str, Any]], classes: tuple[str, ...]) -> dict[str, Any]:
    right = [row["label"] == row["prediction"] for row in rows]
    per_class = {}
    for name in classes:
        hits = sum(row["label"] == row["prediction"] == name for row in rows)
        predicted, count = (sum(row[key] == name for row in rows) for key in ("prediction", "label"))
        per_class[name] = {
            "precision": hits / predicted if predicted else None,
            "recall": hits / count if count else None,
            "count": count,
        }
    return {
        "accuracy": sum(right) / len(right),
        "log_loss": 0.3333,
        "brier": 0.1212,
        "calibration_error": 0.0456,
        "roc_auc": None,
        "per_class": per_class,
    }


def a_summary(classes: tuple[str, ...], num_val: int, quality: dict[str, Any], epochs: int = 3) -> dict[str, Any]:
    return {
        "recipe": "frozen", "classes": list(classes), "num_train": 320, "num_val": num_val, "epochs": epochs,
        "best_epoch": epochs, "frozen_blocks": 5, "val_accuracy": quality["accuracy"], "val_loss": 0.4321,
        "train_accuracy": 0.9, "temperature": 1.75, "quality": quality, "arithmetic": "torch-fp32", "skipped": 0,
        "features_computed": 300, "features_reused": 20, "seconds_features": 10.0, "seconds_train": 2.3,
        "seconds_total": 12.3, "model_digest": "0123456789abcdef",
    }  # fmt: skip


def write_run(
    run: Path,
    summary: dict[str, Any],
    validation: list[dict[str, Any]],
    manifest: list[dict[str, Any]],
    epochs: int = 3,
) -> None:
    """The files that every run has."""
    run.mkdir(parents=True)
    config = dataclasses.asdict(TrainConfig(data=str(run.parent / "data"), output=str(run), recipe="frozen", seed=7))
    content = {"config": config, "versions": {"torch": "2.15.0"}, "git_commit": None, "command": "tlearn train --x"}
    (run / "config.json").write_text(json.dumps(content))
    (run / "summary.json").write_text(json.dumps(summary))
    os.utime(run / "summary.json", (ENDED, ENDED))
    line = {"lr": 1e-3, "train_loss": 0.7, "train_accuracy": 0.6, "seconds": 1.0}
    lines = [{"epoch": n, **line, "val_loss": 0.8 / n, "val_accuracy": 1 - 0.5 / n} for n in range(1, epochs + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = pa.schema([(name, pa.string()) for name in ("split", "path", "class", "status", "error")])
    pq.write_table(pa.Table.from_pylist(manifest, texts), run / "manifest.parquet")
    names = [name for name in ("path", "label", "prediction", "probability", "probabilities") if name in validation[0]]
    pq.write_table(
        pa.Table.from_pylist([{name: row[name] for name in names} for row in validation]), run / "validation.parquet"
    )


def a_full_run(folder: Path, classes: tuple[str, ...], num_val: int = 120) -> Path:
    """A run with all that a page can show."""
    run = folder / "run"
    rows = pictures(classes, {"train": 30, "val": num_val, "test": num_val // 4})
    val, test = ([row for row in rows if row["split"] == split] for split in ("val", "test"))
    summary = a_summary(classes, num_val, quality(val, classes), 12) | {
        "test": quality(test, classes),
        "baseline": {"largest_class": 1 / len(classes), "linear_probe": 0.85},
        "folds": {
            "num_folds": 3,
            "accuracy_mean": 0.9,
            "accuracy_std": 0.02,
            "log_loss_mean": 0.3,
            "log_loss_std": 0.04,
            "per_fold": [{"num_images": 40, "accuracy": 0.9, "log_loss": 0.3}] * 3,
            "accuracy": 0.91,
            "accuracy_interval": [0.85, 0.95],
            "groups": None,
        },
        "remarks": ["the validation loss rose after epoch 9"],
    }
    manifest = [{"split": row["split"], "path": row["path"], "class": row["label"], "status": "ok"} for row in rows]
    manifest.append(
        {"split": "train", "path": "train/cut.jpg", "class": classes[0], "status": "unreadable", "error": "cut"}
    )
    write_run(run, summary, val, manifest, 12)
    pq.write_table(pa.Table.from_pylist(rows, PICTURES), run / "pictures.parquet")
    pq.write_table(pa.Table.from_pylist(layers(rows), LAYERS), run / "layers.parquet")
    (run / "findings.json").write_text(json.dumps(findings(rows)))
    return run


def a_scored_folder(folder: Path, classes: tuple[str, ...], *, is_labelled: bool, count: int = 120) -> Path:
    """What `tlearn score --report` leaves for the page."""
    scored = folder / "scored"
    scored.mkdir(parents=True)
    rows = pictures(classes, {"scored": count}, is_labelled=is_labelled)
    right = [row["label"] == row["prediction"] for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, PICTURES), scored / "pictures.parquet")
    uncertain = sum(row["status"] == "uncertain" for row in rows)
    (scored / "scored.json").write_text(
        json.dumps(
            {
                "listed": count + 3,
                "unchanged": 0,
                "scored": count,
                "uncertain": uncertain,
                "failed": 3,
                "labelled": count if is_labelled else 0,
                "accuracy": sum(right) / count if is_labelled else None,
                "accuracy_interval": [0.8, 0.9] if is_labelled else None,
                "added": count + 3,
                "copied": 0,
                "computed": count + 3,
                "statuses": {"scored": count - uncertain, "uncertain": uncertain, "unreadable": 3},
                "ignored": 0,
                "model": "0123456789abcdef",
                "run": "r",
                "output": "scores/",
                "drift": 0.31,
                "drift_sentence": "the images differ from those of validation, in their features: look at them",
                "images_per_second": 60.0,
                "seconds_total": 4.0,
                "ignored_names": {},
                "remarks": ["not used: x/"],
            }
        )
    )
    drift = {"value": 0.31, "sentence": "the images differ", "paths": [row["path"] for row in rows[5:25]]}
    (scored / "drift.json").write_text(json.dumps(drift))
    return scored


if __name__ == "__main__":
    target, num_classes, num_pictures = Path(sys.argv[1]), *(int(word) for word in [*sys.argv[2:], 2, 120][:2])
    print(write_report(a_full_run(target, CLASSES[:num_classes], num_pictures)))
    for labelled in (False, True):
        place = a_scored_folder(target / str(labelled), CLASSES[:num_classes], is_labelled=labelled, count=num_pictures)
        write_scored(str(place), str(place / "page.html"))
        print(place / "page.html")
