"""Scoring beside what else scores pictures, on the same files, in one run: make peers

Every peer gets the same VGG16 convolutions and writes its pooled features; one head, trained on photographs or drawn by
lot, makes predictions of them, and a figure counts only if these are those of torch in fp32. The pictures are stored at
240x240, so that nobody's way of resizing plays a part. Each measurement is a process of its own; the peers take turns.

steady    images a second after the first batch
cold      images a second from the start of the process to the last prediction
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import HeadConfig, PreprocessConfig, ScoreConfig
from tlearn.data import listing
from tlearn.data.fetch import fetch
from tlearn.demo import drawings
from tlearn.network import engine, model, weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Draft
from tlearn.network.frozen import Frozen
from tlearn.network.trainable import Trainable
from tlearn.network.vgg import convolutions
from tlearn.scoring import job as scoring
from tlearn.storage import default_cache

SIZE = 240
PREPROCESS = PreprocessConfig(resize="squash")
MEAN = (0.48235 * 255, 0.45882 * 255, 0.40784 * 255)
Array = np.ndarray[Any, Any]


def names(folder: str) -> list[str]:
    return sorted(os.listdir(folder))


class Meter:
    """Counts images; the first batch is start-up."""

    def __init__(self) -> None:
        self.first: tuple[float, int] | None = None
        self.count, self.ended = 0, 0.0

    def add(self, count: int) -> None:
        self.count, self.ended = self.count + count, time.monotonic()
        self.first = self.first or (self.ended, self.count)

    def rate(self) -> float:
        assert self.first is not None
        return (self.count - self.first[1]) / (self.ended - self.first[0])


def measured(batches: Iterable[Array]) -> tuple[Array, float]:
    meter, outputs = Meter(), []
    for batch in batches:
        outputs.append(batch)
        meter.add(len(batch))
    return np.concatenate(outputs), meter.rate()


def batched(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def torch_layers(dtype: torch.dtype) -> torch.nn.Module:
    layers = convolutions(1, 5)
    layers.load_state_dict(weights.load("imagenet", default_cache()))
    return layers.to(dtype=dtype, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]


def read(folder: str, name: str) -> Array:
    """(240, 240, 3) uint8"""
    return np.asarray(Image.open(Path(folder) / name).convert("RGB"))


def pooled(layers: torch.nn.Module, pixels: torch.Tensor, dtype: torch.dtype) -> Array:
    """(batch, 3, 240, 240), the ImageNet mean subtracted -> (batch, 512)"""
    with torch.inference_mode():
        x = pixels.to(dtype).contiguous(memory_format=torch.channels_last)
        values: Array = layers(x).float().mean((2, 3)).numpy()
        return values


def plain_loop(folder: str, root: str, dtype: torch.dtype) -> tuple[Array, float]:
    """One process, all cores: decode a batch, then the network."""
    layers, mean = torch_layers(dtype), torch.tensor(MEAN).view(3, 1, 1)

    def batches() -> Iterator[Array]:
        for batch in batched(names(folder), 16):
            fetched = [fetch(folder, name, PREPROCESS).pixels for name in batch]
            yield pooled(layers, torch.stack([one for one in fetched if one is not None]) - mean, dtype)

    return measured(batches())


def dataloader(folder: str, root: str) -> tuple[Array, float]:
    """torchvision's ImageFolder, a DataLoader with a worker for each core, fp32: as tutorials have it."""
    from torchvision import datasets, transforms

    normalize = transforms.Normalize([value / 255 for value in MEAN], [1 / 255] * 3)
    transform = transforms.Compose([transforms.ToTensor(), normalize])
    dataset = datasets.ImageFolder(str(Path(folder).parent), transform)
    layers = convolutions(1, 5).eval().requires_grad_(False)
    layers.load_state_dict(weights.load("imagenet", default_cache()))
    loader = torch.utils.data.DataLoader(dataset, batch_size=16, num_workers=os.cpu_count() or 1)
    with torch.inference_mode():
        return measured(layers(images).mean((2, 3)).numpy() for images, _ in loader)


def keras(folder: str, root: str) -> tuple[Array, float]:
    """The notebook's way: keras.applications.VGG16 and model.predict on batches of 32, on TensorFlow."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras as k

    network_ = k.applications.VGG16(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    tensors = weights.load("imagenet", default_cache())
    for layer in network_.layers:
        if f"{layer.name}.weight" in tensors:
            kernel = tensors[f"{layer.name}.weight"].numpy().transpose(2, 3, 1, 0)
            if layer.name == "block1_conv1":
                kernel = kernel[:, :, ::-1]  # its filters expect BGR
            layer.set_weights([kernel, tensors[f"{layer.name}.bias"].numpy()])
    files = names(folder)
    dataset = k.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(SIZE, SIZE), batch_size=32, shuffle=False
    )
    dataset = dataset.map(k.applications.vgg16.preprocess_input)
    meter = Meter()
    first = k.callbacks.LambdaCallback()
    first.on_predict_batch_end = lambda batch, logs: meter.add(min(32, len(files) - 32 * batch))
    return network_.predict(dataset, verbose=0, callbacks=[first]).mean((1, 2)), meter.rate()


def timm(folder: str, root: str) -> tuple[Array, float]:
    """timm's inference script: create_dataset, create_loader, --amp bfloat16 --channels-last, its own vgg16."""
    import timm as t
    from timm.data import create_dataset, create_loader

    network_ = t.create_model("vgg16", pretrained=False, num_classes=0)
    ours = torch_layers(torch.float32).state_dict()
    network_.features.load_state_dict(dict(zip(network_.features.state_dict(), ours.values(), strict=True)))
    network_ = network_.eval().to(memory_format=torch.channels_last)
    loader = create_loader(
        create_dataset("", root=folder),
        input_size=(3, SIZE, SIZE),
        batch_size=64,
        use_prefetcher=False,
        mean=[value / 255 for value in MEAN],
        std=[1 / 255] * 3,
        crop_pct=1.0,
        interpolation="bilinear",
        num_workers=os.cpu_count(),
    )
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return measured(
            network_.forward_features(images.contiguous(memory_format=torch.channels_last)).float().mean((2, 3)).numpy()
            for images, _ in loader
        )


class RayActor:
    def __init__(self) -> None:
        self.layers = torch_layers(torch.bfloat16)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        pixels = torch.stack([torch.from_numpy(one) for one in batch["image"]])
        return {"path": batch["path"], "pooled": pooled(self.layers, pixels, torch.bfloat16)}


def ray_transform(row: dict[str, Any]) -> dict[str, Any]:
    image = torch.from_numpy(row["image"].copy()).permute(2, 0, 1).float() - torch.tensor(MEAN).view(3, 1, 1)
    return {"path": row["path"], "image": image.numpy()}


def ray_data(folder: str, root: str) -> tuple[Array, float]:
    """Ray Data's guide to batch inference: read_images, map, map_batches with an actor, write_parquet; in bf16."""
    import logging

    import pyarrow.parquet as pq
    import ray

    os.environ["RAY_ADDRESS"] = "local"
    ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    started = time.monotonic()
    dataset = ray.data.read_images(folder, include_paths=True, mode="RGB").map(ray_transform)
    dataset = dataset.map_batches(RayActor, compute=ray.data.ActorPoolStrategy(size=1), batch_size=16)
    dataset.write_parquet(f"{root}/ray")
    seconds = time.monotonic() - started
    table = pq.read_table(f"{root}/ray").sort_by("path")
    # There is no first batch to be seen from outside: the start of the actor counts, but not that of Ray.
    return np.stack(table["pooled"].to_pylist()).astype(np.float32), table.num_rows / seconds


def onnxruntime(folder: str, root: str) -> tuple[Array, float]:
    """ONNX Runtime, the graph written by hand, fp32."""
    import onnx
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    nodes, tensors, x = [], [], "images"
    for name, layer in torch_layers(torch.float32).named_children():
        inputs = [x]
        if isinstance(layer, torch.nn.Conv2d):
            for key, value in layer.named_parameters():
                tensors.append(numpy_helper.from_array(value.contiguous().numpy(), f"{name}.{key}"))
                inputs.append(f"{name}.{key}")
            nodes.append(helper.make_node("Conv", inputs, [name], pads=[1, 1, 1, 1]))
        elif isinstance(layer, torch.nn.ReLU):
            nodes.append(helper.make_node("Relu", inputs, [name]))
        else:
            nodes.append(helper.make_node("MaxPool", inputs, [name], kernel_shape=[2, 2], strides=[2, 2]))
        x = name
    shape = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "vgg16",
        [shape("images", onnx.TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [shape(x, onnx.TensorProto.FLOAT, ["batch", 512, 7, 7])],
        tensors,
    )
    session = ort.InferenceSession(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return measured(session.run(None, {"images": pixels})[0].mean((2, 3)) for pixels in mean_subtracted(folder))


def mean_subtracted(folder: str) -> Iterator[Array]:
    for batch in batched(names(folder), 16):
        pixels = np.stack([read(folder, name) for name in batch]).astype(np.float32) - np.array(MEAN, np.float32)
        yield np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def openvino(folder: str, root: str) -> tuple[Array, float]:
    """OpenVINO as its guide has it: convert_model of the torch module, everything at its default."""
    import openvino as ov

    layers = torch_layers(torch.float32)
    converted = ov.convert_model(layers, example_input=torch.zeros(1, 3, SIZE, SIZE))
    compiled = ov.compile_model(converted, "CPU")
    return measured(compiled(pixels)[0].mean((2, 3)) for pixels in mean_subtracted(folder))


def daft(folder: str, root: str) -> tuple[Array, float]:
    """Daft's native runner: download, decode, a batch function with the torch model in bf16."""
    import daft as d

    @d.cls(max_concurrency=1)
    class Network:
        def __init__(self) -> None:
            self.layers = torch_layers(torch.bfloat16)

        @d.method.batch(return_dtype=d.DataType.list(d.DataType.float32()), batch_size=16)
        def features(self, images: d.Series) -> Any:
            pixels = torch.stack([torch.from_numpy(np.array(image)) for image in images.to_pylist()])
            pixels = pixels.permute(0, 3, 1, 2).float() - torch.tensor(MEAN).view(3, 1, 1)
            return pooled(self.layers, pixels, torch.bfloat16).tolist()

    started = time.monotonic()
    frame = d.from_glob_path(f"{folder}/*")
    frame = frame.with_column("image", d.col("path").download().decode_image(mode="RGB"))
    frame = frame.with_column("pooled", Network().features(d.col("image"))).select("path", "pooled").sort("path")
    frame = frame.collect()
    seconds = time.monotonic() - started
    rows = frame.to_pydict()["pooled"]
    return np.array(rows, np.float32), len(rows) / seconds


def ours(folder: str, root: str, arithmetic: str) -> tuple[Array, float]:
    """tlearn score; of the table only the predictions are read, as logits of two columns."""
    import pyarrow.parquet as pq

    name, precision = arithmetic.split("-")
    config = ScoreConfig(
        model=f"{root}/model",
        input=folder,
        output=f"{root}/{arithmetic}.parquet",
        engine=name,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        quiet=True,
    )
    os.environ["RAY_ADDRESS"] = "local"
    scored = scoring.score(config)
    table = pq.read_table(config.output).sort_by("path")
    probabilities = table["probabilities"].to_pylist(maps_as_pydicts="strict")
    return np.array([list(one.values()) for one in probabilities], np.float32), scored.images_per_second


PEERS: dict[str, Callable[[str, str], tuple[Array, float]]] = {
    "tlearn, int8": lambda folder, root: ours(folder, root, "openvino-int8"),
    "tlearn, OpenVINO bf16": lambda folder, root: ours(folder, root, "openvino-bf16"),
    "tlearn, torch bf16": lambda folder, root: ours(folder, root, "torch-bf16"),
    "plain loop, torch bf16": lambda folder, root: plain_loop(folder, root, torch.bfloat16),
    "ImageFolder, DataLoader": dataloader,
    "Keras": keras,
    "timm, bf16": timm,
    "Ray Data as documented": ray_data,
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
    "Daft": daft,
}


def prepare(root: Path, source: str | None, count: int) -> None:
    """Pictures of 240x240, a model folder with int8 ranges, and what torch says in fp32."""
    folder = root / "pictures" / "all"
    folder.mkdir(parents=True)
    entries = storage.in_order(listing.pictures(source)) if source else []
    for number in range(count):
        if source:
            entry = entries[number * len(entries) // count]
            picture = Image.open(Path(source) / entry.path)
        else:
            picture = drawings.draw("cat" if number % 2 else "dog", np.random.default_rng([0, number]))
        picture.convert("RGB").resize((SIZE, SIZE)).save(folder / f"{number:05}.jpg", quality=92)
    tensors = weights.load("imagenet", default_cache())
    frozen = Frozen(5, PREPROCESS, tensors=tensors)
    pixels = [fetch(str(folder), name, PREPROCESS).pixels for name in names(str(folder))]
    images = torch.stack([one for one in pixels if one is not None])
    ranges = engine.calibrate(frozen.layers, PREPROCESS, images[::2][:32].split(8))
    extract = frozen.prepare()
    features = torch.cat([extract(part).float() for part in images.split(16)])
    trainable = Trainable(5, PREPROCESS, HeadConfig(kind="linear"), 1)
    direction = separating(features.mean((2, 3)))
    trainable.head.last.weight.data, trainable.head.last.bias.data = direction[None, :-1], direction[-1:]
    draft = Draft(
        classes=Classes(("cat", "dog")),
        frozen_blocks=5,
        preprocess=PREPROCESS,
        head=HeadConfig(kind="linear"),
        arithmetic=Arithmetic("openvino", "int8", ranges),
        training={"recipe": "none", "num_train": 0, "num_val": 0},
        metrics={"val_accuracy": 0.0, "val_loss": 0.0},
        reference={},
    )
    model.save(root / "model", tensors, trainable, draft)
    np.save(root / "head.npy", direction.numpy())
    np.save(root / "reference.npy", features.mean((2, 3)).numpy())


def separating(features: torch.Tensor) -> torch.Tensor:
    """(513,) weights and bias of a ridge regression on two clusters that k-means finds: a head that means something."""
    centres = features[torch.tensor([0, 1])].clone()
    for _ in range(20):
        labels = torch.cdist(features, centres).argmin(1)
        for index in range(2):
            centres[index] = features[labels == index].mean(0)
    inputs = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    targets = (labels * 2 - 1).double()
    scale = inputs.square().mean()
    gram = inputs.T @ inputs + scale * torch.eye(513, dtype=torch.float64)
    return (torch.linalg.solve(gram, inputs.T @ targets)).float()


def agreement(found: Array, root: Path) -> float:
    head, reference = np.load(root / "head.npy"), np.load(root / "reference.npy")
    expected = reference @ head[:-1] + head[-1] > 0
    predicted = found[:, 1] > found[:, 0] if found.shape[1] == 2 else found @ head[:-1] + head[-1] > 0
    return float((predicted == expected).mean())


def one(name: str, root: Path) -> None:
    """In a process of its own."""
    torch.set_num_threads(os.cpu_count() or 1)
    outputs, rate = PEERS[name](
        str(root / "pictures" / "all"), tempfile.mkdtemp(dir=root) if "tlearn" not in name else str(root)
    )
    np.save(root / "outputs.npy", outputs)
    (root / "rate.json").write_text(json.dumps(rate))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", help="folder of photographs; drawings unless told")
    parser.add_argument("--num-images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(PEERS))
    parser.add_argument("--one", nargs=2)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one[0], Path(arguments.one[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, arguments.input, arguments.num_images)
        figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in arguments.only}
        for _ in range(arguments.rounds):
            for name in arguments.only:
                started = time.monotonic()
                command = [sys.executable, __file__, "--one", name, folder]
                done = subprocess.run(command, capture_output=True, text=True)
                seconds = time.monotonic() - started
                if done.returncode:
                    print(
                        f"{name}: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}",
                        flush=True,
                    )
                    continue
                rate = json.loads((root / "rate.json").read_text())
                figures[name].append(
                    (rate, arguments.num_images / seconds, agreement(np.load(root / "outputs.npy"), root))
                )
    loop_rate = median(rate for rate, _, _ in figures["plain loop, torch bf16"])
    print(f"{arguments.num_images} pictures, {arguments.rounds} rounds: medians (lowest to highest)")
    print(f"{'':<26}{'steady':>8}{'':>16}{'of the loop':>13}{'cold':>8}{'agreement':>11}")
    for name, rows in sorted(figures.items(), key=lambda item: -median(row[0] for row in item[1] or [(0.0,)])):
        if not rows:
            continue
        steady, cold, agreed = (sorted(column) for column in zip(*rows, strict=True))
        spread = f"({steady[0]:.1f} to {steady[-1]:.1f})"
        print(
            f"{name:<26}{median(steady):>8.1f}{spread:>16}{median(steady) / loop_rate:>13.2f}{median(cold):>8.1f}"
            f"{agreed[0]:>11.1%}"
        )


if __name__ == "__main__":
    main()
