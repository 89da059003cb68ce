import math
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.api.routes import ROUTES
from inferstack_runtime.collectors import CounterSeries, Family, GaugeSeries, HistogramSeries, number
from inferstack_runtime.metrics import CATALOGUE, Metrics


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in found}


def test_prometheus_own_parser_reads_back_every_sample():
    metrics = Metrics()
    odd = 'a "quoted" \\ name\nof two lines, {with=braces}'
    metrics[catalogue.REQUESTS].labels("/v1/completions", odd, 200, "default").inc()
    metrics[catalogue.REQUEST_SECONDS].labels("/v1/completions", odd).observe(0.3)
    metrics[catalogue.REQUEST_SECONDS].labels("/v1/completions", odd).observe(1e9)
    metrics[catalogue.KV_RATIO].labels("m").set(1e-9)
    read, said = samples(metrics.render().decode()), list(metrics.series())
    for name, labels, value in said:
        if not name.startswith("process_"):
            assert read[name, tuple(sorted(labels.items()))] == value or math.isnan(value)
    assert len(read) == len(said)
    assert read["inferstack_request_duration_seconds_bucket", (("le", "0.25"), ("model", odd), ("route", "/v1/completions"))] == 0
    assert read["inferstack_request_duration_seconds_bucket", (("le", "0.5"), ("model", odd), ("route", "/v1/completions"))] == 1
    assert read["inferstack_request_duration_seconds_bucket", (("le", "+Inf"), ("model", odd), ("route", "/v1/completions"))] == 2


def test_the_bucket_of_a_bound_holds_the_bound():
    series = HistogramSeries("h", {}, (1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        series.observe(value)
    counts = [value for name, _, value in series.samples() if name == "h_bucket"]
    assert counts == [2, 4, 5]


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1.0"), (0.1, "0.1"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"), (1e22, "1e+22")]
)
def test_numbers_are_written_as_the_format_has_them(value, text):
    assert number(value) == text


def test_a_counter_never_falls_and_labels_are_counted():
    with pytest.raises(ValueError, match="cannot grow by -1"):
        CounterSeries("c_total", {}).inc(-1)
    with pytest.raises(ValueError, match="zip"):
        Family(("a", "b"), lambda labels: GaugeSeries("g", labels)).labels("only one")


def test_no_count_is_lost_between_threads():
    family = Family(("a",), lambda labels: CounterSeries("c_total", labels))
    histogram = HistogramSeries("h", {}, (1.0,))

    def work() -> None:
        for index in range(5_000):
            family.labels(index % 7).inc()
            histogram.observe(0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(value for series in family.series for _, _, value in series.samples()) == 20_000
    assert next(iter(histogram.samples()))[2] == 20_000


def test_a_page_with_every_label_in_use_takes_the_event_loop_a_few_milliseconds():
    """Ten models, every route, code and tier: far more than a process serves. CPU time, so that a busy machine does not matter."""
    metrics = Metrics()
    models = [f"model-{index}" for index in range(10)]
    for model in models:
        for metric in CATALOGUE:
            if metric.labels == ("model",):
                series = metrics[metric].labels(model)
                series.observe(0.1) if metric.kind == "histogram" else series.inc()
        for route in ROUTES:
            metrics[catalogue.REQUEST_SECONDS].labels(route.path, model).observe(0.1)
            for code in (200, 400, 429, 499, 503):
                metrics[catalogue.REQUESTS].labels(route.path, model, code, "default").inc()
    page = metrics.render()
    assert page.count(b"\n") > 5_000
    taken = []
    for _ in range(5):
        begin = time.thread_time()
        metrics.render()
        taken.append(time.thread_time() - begin)
    assert min(taken) < 0.02, f"{len(page)} bytes took {min(taken) * 1000:.1f} ms"
