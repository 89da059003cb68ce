import math
import re

from inferstack_runtime.metrics import CATALOGUE, Metrics, find


def test_names_follow_prometheus_practice():
    names = [metric.name for metric in CATALOGUE]
    assert len(set(names)) == len(names)
    for metric in CATALOGUE:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
        assert metric.help.endswith(".")
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert list(metric.buckets) == sorted(metric.buckets)
        if metric.unit in ("seconds", "bytes"):
            assert f"_{metric.unit}" in metric.name


def test_no_label_is_unbounded():
    bounded = {
        "route", "model", "code", "tier", "reason", "source", "result", "use", "bound", "status", "check", "side", "verdict",
        "environment", "slot", "generation", "model_digest", "quantization", "version", "dtype",
    }  # fmt: skip
    assert {label for metric in CATALOGUE for label in metric.labels} <= bounded


def test_every_metric_of_the_catalogue_is_exposed():
    text = Metrics().render().decode()
    for metric in CATALOGUE:
        assert f"# TYPE {metric.name.removesuffix('_total') if metric.kind == 'counter' else metric.name}" in text


def test_series_are_found_by_their_exposed_names():
    assert find("inferstack_request_duration_seconds_bucket") is find("inferstack_request_duration_seconds")
    assert find("inferstack_nothing") is None


def test_what_a_process_does_not_have_is_neither_up_nor_down():
    """0 would fire AccessKeysMissing and SharedStoreDown for ever in a process without a key file and a shared store."""
    metrics = Metrics()
    for name in ("inferstack_access_keys", "inferstack_shared_store_up"):
        assert math.isnan(metrics.value(name))
    assert metrics.value("inferstack_open_streams") == 0
