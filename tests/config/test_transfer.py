from pathlib import Path

import pytest

from uniemox.config.transfer import TransferConfig
from uniemox.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"models": ()}, "`models` must be given"),
        ({"data": ()}, "`data` must be given"),
        ({"models": ("demo", "demo")}, "`models` names demo twice"),
        ({"data": (Path("a"), Path("a"))}, "`data` names a twice"),
        ({"leaks": False, "remove_leaks": True}, "`remove_leaks` needs the search for `leaks`"),
        ({"like": 0.2}, "like is 0.2, but must be between 0.5 and 1"),
        ({"out": (Path("matrix.xlsx"),)}, "matrix.xlsx, but must end in"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_what_makes_no_matrix_is_refused(settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        TransferConfig(**{"models": ("demo",), "data": (Path("d"),)} | settings)
