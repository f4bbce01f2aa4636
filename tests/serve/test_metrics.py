"""What is counted can be read by Prometheus's own parser."""

from prometheus_client.parser import text_string_to_metric_families

from uniemox.serve.metrics import Metrics


def test_counters_are_rendered_and_apart():
    waiting = 3
    first, second = (Metrics(lambda: waiting, {"model": name}) for name in ("a", "b"))
    first.requests.labels("/v1/predict", "200").inc(2)
    first.batches.observe(5)
    families = {family.name: family for family in text_string_to_metric_families(first.render().decode())}
    samples = {sample.name: sample for family in families.values() for sample in family.samples}
    assert samples["uniemox_requests_total"].value == 2
    assert samples["uniemox_images_waiting"].value == 3
    assert samples["uniemox_batch_images_sum"].value == 5
    assert samples["uniemox_model_info"].labels == {"model": "a"}
    assert samples["process_resident_memory_bytes"].value > 1e6
    assert "200" not in second.render().decode().partition("uniemox_requests_total")[2][:20]
