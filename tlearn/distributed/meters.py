"""Figures of ours among those that every node of Ray exports to Prometheus, under these names after ray_.

    tlearn_images_scored_total{model}   tlearn_images_failed_total{model}    rows of chunks, as they are done
    tlearn_features_computed_total      tlearn_features_reused_total         views, when a training run has its features
    tlearn_stage_seconds_total{stage}   score, features, train: how long each took

No tag grows with the number of runs. Ray collects them every ten seconds, and forgets those of a job that has ended.
"""

import ray


def count(name: str, number: float, **tags: str) -> None:
    """Add to the counter of the Ray that is started; without one there is nobody who collects it."""
    from ray.util.metrics import Counter

    if number and ray.is_initialized():  # Ray refuses to add nothing
        Counter(f"tlearn_{name}", tag_keys=tuple(tags)).inc(number, tags)
