"""The page of a scored folder: what its rows say, and what the network looked at in some of them."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tlearn import storage
from tlearn.config import ScoreConfig
from tlearn.console import say, warn
from tlearn.data.fetch import fetch
from tlearn.evaluation import drift, similar
from tlearn.evaluation.drift import Histograms, Reference
from tlearn.network import explain
from tlearn.network.description import Description
from tlearn.report import page, pictures
from tlearn.report.pictures import Picture, most_shown, worth_showing
from tlearn.scoring import predict
from tlearn.scoring.predict import Predictor
from tlearn.scoring.summary import Scored

_MAX_DESCRIBED = 500
"""Pictures that run through the network once more, for what a row does not say: the least certain, others between."""
_MAX_DRIVERS = 60
_NUM_CLUSTERS = 8


def write(
    config: ScoreConfig,
    folder: str,
    rows: pa.Table,
    scored: Scored,
    histograms: Histograms | None,
    labels: Mapping[str, str] | None,
) -> bool:
    """Write `config.report` of rows of files in a folder, at most 5,000 of those with a prediction.

    `labels` are the classes by path, where they are others than the folders'. Raises StorageError where it cannot be
    written. False without a prediction: then there is no page.
    """
    assert config.report is not None
    rows = rows.filter(pc.and_(pc.is_valid(rows["prediction"]), pc.equal(rows["model"], scored.model)))
    if not rows.num_rows:
        warn(f"WARNING: no page in {config.report}: no picture has a score")
        return False
    predictor = predict.load(config.model, config.engine, config.precision, config.cascade)
    model = predictor.description
    chosen = worth_showing(rows["probability"].to_numpy(), most_shown(len(model.classes.names)))
    shown = rows.take(chosen).to_pylist(maps_as_pydicts="strict")
    say(f"looking at {len(shown):,} pictures for {config.report}")
    described = {each.path: each for each in _described(predictor, folder, shown)}
    wall = [_picture(row, model.temperature, described.get(row["path"]), labels) for row in shown]
    has_drift = scored.drift is not None and scored.drift >= drift.USUAL
    driving = _driving(model, histograms, list(described.values())) if has_drift else []
    with tempfile.TemporaryDirectory() as temporary:
        pq.write_table(pictures.table(wall, folder, model.preprocess), Path(temporary, "pictures.parquet"))
        Path(temporary, "scored.json").write_text(json.dumps(replace(scored, report=config.report).to_json()))
        content = {"value": scored.drift, "sentence": scored.drift_sentence, "paths": driving}
        Path(temporary, "drift.json").write_text(json.dumps(content))
        page.write_scored(temporary, storage.absolute(config.report))
    return True


@dataclass(frozen=True, slots=True)
class _Described:
    """What the network says of a picture beyond its row."""

    path: str
    columns: dict[str, Any]
    """Of a Picture."""
    series: dict[str, np.ndarray[Any, Any]]
    """(series,) of each network: by which drift is measured."""


def _described(predictor: Predictor, folder: str, rows: Sequence[dict[str, Any]]) -> Iterator[_Described]:
    """Of those of at most 500 rows whose file is still there."""
    chosen = worth_showing(np.array([row["probability"] for row in rows]), _MAX_DESCRIBED)
    classes, device = predictor.description.classes, predictor.device
    seen: list[dict[str, Any]] = []
    attention: list[np.ndarray[Any, Any]] = []
    pooled: dict[str, list[Tensor]] = {stage.name: [] for stage in predictor.stages}
    with ThreadPoolExecutor(device.num_threads) as threads:
        for start in range(0, len(chosen), device.batch_size):
            batch = [rows[row] for row in chosen[start : start + device.batch_size]]
            found, maps = _maps(predictor, folder, batch, threads)
            if found:
                for name, of in maps.items():
                    pooled[name].append(of.float().mean((2, 3)).cpu())
                predicted = _indices(found, classes.indices).to(maps["large"].device)
                attention.append(explain.attention(predictor.large.head, maps["large"], predicted).cpu().numpy())
                seen += found
    if not seen:
        return
    joined = {name: torch.cat(of) for name, of in pooled.items()}
    features, predictions = joined["large"], _indices(seen, classes.indices)
    probabilities = np.array([[row["probabilities"][name] for name in classes.names] for row in seen])
    series = {name: drift.series(probabilities, of.numpy()) for name, of in joined.items()}
    columns = zip(
        seen,
        np.concatenate(attention),
        similar.typicality(features, predictions, None, predictions).tolist(),
        similar.clusters(features, _NUM_CLUSTERS, seed=0).tolist(),
        strict=True,
    )
    for at, (row, heat, typical, cluster) in enumerate(columns):
        typicality = None if np.isnan(typical) else typical
        facts = {"attention": heat, "typicality": typicality, "cluster": cluster}
        yield _Described(row["path"], facts, {name: of[:, at] for name, of in series.items()})


def _maps(
    predictor: Predictor, folder: str, rows: list[dict[str, Any]], threads: ThreadPoolExecutor
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Those of the rows whose file is still there, and their last feature maps by the name of the network."""
    paths = [row["path"] for row in rows]
    sizes = [partial(fetch, folder, config=stage.classifier.preprocess) for stage in predictor.stages]
    pixels = [[file.pixels for file in threads.map(fetch_so, paths)] for fetch_so in sizes]
    there = [at for at, of in enumerate(zip(*pixels, strict=True)) if all(each is not None for each in of)]
    maps: dict[str, Tensor] = {}
    for stage, found in zip(predictor.stages, pixels, strict=True):
        kept = [each for at in there if (each := found[at]) is not None]
        if kept:
            maps[stage.name] = stage.classifier.extract(predictor.device.stack(kept))
    return [rows[at] for at in there], maps


def _indices(rows: Sequence[dict[str, Any]], indices: Mapping[str, int]) -> Tensor:
    return torch.tensor([indices[row["prediction"]] for row in rows])


def _picture(
    row: dict[str, Any], temperature: float, described: _Described | None, labels: Mapping[str, str] | None
) -> Picture:
    names = ("path", "status", "prediction", "probability", "probabilities")
    return Picture(
        **{name: row[name] for name in names},
        split="scored",
        label=row["label"] if labels is None else labels.get(row["path"]),
        raw=_before_calibration(row["probabilities"], temperature),
        **(described.columns if described else {}),
    )


def _before_calibration(probabilities: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Powers of what the division by the temperature has made of them."""
    powers = np.array(list(probabilities.values()), np.float64) ** temperature
    return dict(zip(probabilities, (powers / powers.sum()).tolist(), strict=True))


def _driving(model: Description, histograms: Histograms | None, described: Sequence[_Described]) -> list[str]:
    """Paths of the pictures by which the drift comes about, most first."""
    network, counts = drift.chief(histograms)
    reference = Reference.from_json(model.reference_of(network))
    if reference is None or not described:
        return []
    shares = drift.shares(reference, counts, np.stack([each.series[network] for each in described], axis=1))
    order = np.argsort(-shares, kind="stable")[:_MAX_DRIVERS]
    return [described[row].path for row in order if shares[row] > 0]
