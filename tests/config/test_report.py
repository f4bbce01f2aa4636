from pathlib import Path

import pytest

from uniemox.config.report import ReportConfig
from uniemox.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"paths": ()}, "`paths` must be given"),
        ({"out": Path("a.pdf")}, r"out is a.pdf, but must end in .html"),
        ({"resume": True}, "`resume` continues predictions: name the `model`"),
        ({"taxonomy": "mikels"}, "`taxonomy` are about predictions: name the `model`"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_what_cannot_be_reported_is_refused(settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        ReportConfig(**{"paths": (Path("t.csv"),)} | settings)


def test_the_page_lies_beside_the_table_or_where_it_is_asked_for():
    assert ReportConfig((Path("a/t.csv"),)).page == Path("a/t.html")
    assert ReportConfig((Path("a/photos"),), model="demo").page == Path("photos.html")
    assert ReportConfig((Path("a/t.csv"),), out=Path("x.html")).page == Path("x.html")


def test_predictions_are_asked_for_as_the_report_is():
    config = ReportConfig((Path("photos"),), model="clip:demo", taxonomy="mikels", workers=0, out=Path("x/r.html"))
    asked = config.prediction
    assert (asked.model, asked.paths, asked.out) == ("clip:demo", config.paths, Path("x/r.parquet"))
    assert (asked.taxonomy, asked.workers, asked.overwrite) == ("mikels", 0, False)
