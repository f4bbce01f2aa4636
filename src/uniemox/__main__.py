"""`python -m uniemox`, which is what `torchrun` starts."""

from __future__ import annotations

import sys

from uniemox.cli import main

sys.exit(main())
