"""`python -m uniemox`, which is what `torchrun` starts."""

import sys

from uniemox.console.cli import main

sys.exit(main())
