"""The page of a scored folder: what its rows say, and what the network looked at in some of them."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
) -> None:
    """Write `config.report` of rows of files in a folder, at most 5,000 of those with a prediction.

    `labels` are the classes by path, where they are others than the folders'. Raises StorageError where it cannot be
    written. Without a prediction there is no page.
    """
    assert config.report is not None
    rows = rows.filter(pc.and_(pc.is_valid(rows["prediction"]), pc.equal(rows["model"], scored.model)))
    if not rows.num_rows:
        warn(f"no page in {config.report}: no picture has a score")
        return
    predictor = predict.load(config.model, config.engine, config.precision)
    model = predictor.classifier.description
    chosen = worth_showing(rows["probability"].to_numpy(), most_shown(len(model.classes.names)))
    shown = rows.take(chosen).to_pylist(maps_as_pydicts="strict")
    say(f"looking at {len(shown):,} pictures for {config.report}")
    described = {each.path: each for each in _described(predictor, folder, shown)}
    wall = [_picture(row, model.temperature, described.get(row["path"]), labels) for row in shown]
    has_drift = scored.drift is not None and scored.drift >= drift.USUAL
    reference = Reference.from_json(model.reference) if has_drift else None
    driving = _driving(reference, histograms, list(described.values()))
    with tempfile.TemporaryDirectory() as temporary:
        pq.write_table(pictures.table(wall, folder, model.preprocess), Path(temporary, "pictures.parquet"))
        Path(temporary, "scored.json").write_text(json.dumps(scored.to_json()))
        content = {"value": scored.drift, "sentence": scored.drift_sentence, "paths": driving}
        Path(temporary, "drift.json").write_text(json.dumps(content))
        page.write_scored(temporary, storage.absolute(config.report))


@dataclass(frozen=True, slots=True)
class _Described:
    """What the network says of a picture beyond its row."""

    path: str
    columns: dict[str, Any]
    """Of a Picture."""
    series: np.ndarray[Any, Any]
    """(series,): by which drift is measured."""


def _described(predictor: Predictor, folder: str, rows: Sequence[dict[str, Any]]) -> Iterator[_Described]:
    """Of those of at most 500 rows whose file is still there."""
    chosen = worth_showing(np.array([row["probability"] for row in rows]), _MAX_DESCRIBED)
    model, batch_size = predictor.classifier.description, predictor.device.batch_size
    seen, attention, pooled = [], [], []
    with ThreadPoolExecutor(predictor.device.num_threads) as threads:
        for start in range(0, len(chosen), batch_size):
            batch = [rows[row] for row in chosen[start : start + batch_size]]
            files = threads.map(lambda row: fetch(folder, row["path"], model.preprocess), batch)
            found = [(row, file.pixels) for row, file in zip(batch, files, strict=True) if file.pixels is not None]
            if not found:
                continue
            maps = predictor.classifier.extract(predictor.device.stack([pixels for _, pixels in found]))
            predicted = _indices([row for row, _ in found], model.classes.indices).to(maps.device)
            attention.append(explain.attention(predictor.classifier.head, maps, predicted).cpu().numpy())
            pooled.append(maps.float().mean((2, 3)).cpu())
            seen += [row for row, _ in found]
    if not seen:
        return
    features, predictions = torch.cat(pooled), _indices(seen, model.classes.indices)
    probabilities = np.array([[row["probabilities"][name] for name in model.classes.names] for row in seen])
    columns = zip(
        seen,
        np.concatenate(attention),
        similar.typicality(features, predictions, None, predictions).tolist(),
        similar.clusters(features, _NUM_CLUSTERS, seed=0).tolist(),
        drift.series(probabilities, features.numpy()).T,
        strict=True,
    )
    for row, heat, typical, cluster, series in columns:
        typicality = None if np.isnan(typical) else typical
        yield _Described(row["path"], {"attention": heat, "typicality": typicality, "cluster": cluster}, series)


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


def _driving(reference: Reference | None, histograms: Histograms | None, described: Sequence[_Described]) -> list[str]:
    """Paths of the pictures by which the drift comes about, most first."""
    if reference is None or histograms is None or not described:
        return []
    shares = drift.shares(reference, histograms, np.stack([each.series for each in described], axis=1))
    order = np.argsort(-shares, kind="stable")[:_MAX_DRIVERS]
    return [described[row].path for row in order if shares[row] > 0]
