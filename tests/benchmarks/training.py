"""The notebook's job by Keras and by us: .venv-peers/bin/python tests/benchmarks/training.py --data DIR

Whole processes, five epochs with a frozen base, from cold: the weights are on the disk, nothing else is known. "second"
is the same folder again with another learning rate. Every round runs both of ours, then Keras; of its epochs, which are
alike, only --keras-epochs are run, and the last of them stands for those that are left out.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tlearn.network import weights
from tlearn.storage import default_cache


def keras(data: str, num_epochs: int) -> list[float]:
    """keras.applications.VGG16, frozen; Flatten and three Dense layers; SGD; pixels / 255; no shuffling.

    Seconds of each epoch.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras as k

    base = k.applications.VGG16(weights=None, include_top=False, input_shape=(240, 240, 3))
    tensors = weights.load("imagenet", default_cache())
    for layer in base.layers:
        layer.trainable = False
        if f"{layer.name}.weight" in tensors:
            kernel = tensors[f"{layer.name}.weight"].numpy().transpose(2, 3, 1, 0)
            layer.set_weights([kernel, tensors[f"{layer.name}.bias"].numpy()])
    layers = [
        k.layers.Rescaling(1 / 255),
        base,
        k.layers.Flatten(),
        k.layers.Dense(1024, "relu"),
        k.layers.Dropout(0.5),
    ]
    network = k.Sequential([*layers, k.layers.Dense(1024, "relu"), k.layers.Dense(1, "sigmoid")])
    network.compile(k.optimizers.SGD(1e-4, momentum=0.9), "binary_crossentropy", metrics=["accuracy"])
    train, val = (
        k.utils.image_dataset_from_directory(
            f"{data}/{split}", label_mode="binary", image_size=(240, 240), batch_size=64, shuffle=False
        )
        for split in ("train", "val")
    )
    seconds = []
    for _ in range(num_epochs):
        started = time.monotonic()
        network.fit(train, validation_data=val, verbose=2)
        seconds.append(time.monotonic() - started)
    return seconds


def timed(command: list[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=sys.stderr)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--num-epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keras-epochs", type=int, default=1)
    parser.add_argument("--keras", help="only Keras, in this process; the seconds of its epochs go into this file")
    arguments = parser.parse_args()
    if arguments.keras:
        Path(arguments.keras).write_text(json.dumps(keras(arguments.data, arguments.keras_epochs)))
        return
    epochs = ["--optim.num-epochs", str(arguments.num_epochs)]
    seconds: dict[str, list[float]] = {"Keras": [], "cold": [], "second": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            shutil.copytree(Path(default_cache()) / "weights", cache / "weights")
            base = [
                sys.executable,
                "-m",
                "tlearn",
                "train",
                "notebook",
                "--data",
                arguments.data,
                "--cache",
                str(cache),
            ]
            seconds["cold"].append(timed([*base, "--output", f"{folder}/one", *epochs]))
            seconds["second"].append(timed([*base, "--output", f"{folder}/two", *epochs, "--optim.lr", "2e-4"]))
            summaries = [json.loads((Path(folder) / name / "summary.json").read_text()) for name in ("one", "two")]
            for summary in summaries:
                print({key: value for key, value in summary.items() if key.startswith("seconds")}, file=sys.stderr)
            measured = f"{folder}/keras.json"
            command = [sys.executable, __file__, "--keras", measured, "--data", arguments.data]
            run = timed([*command, "--keras-epochs", str(arguments.keras_epochs)])
            left_out = (arguments.num_epochs - arguments.keras_epochs) * json.loads(Path(measured).read_text())[-1]
            seconds["Keras"].append(run + left_out)
        print({name: [round(value, 1) for value in values] for name, values in seconds.items()}, file=sys.stderr)
    for name, values in seconds.items():
        ratio = median(seconds["Keras"]) / median(values)
        print(f"{name:<8}{median(values):>8.1f} s ({min(values):.1f} to {max(values):.1f}){ratio:>8.1f} times as fast")


if __name__ == "__main__":
    main()
