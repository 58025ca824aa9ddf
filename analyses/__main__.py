"""``python -m analyses [name ...] [--quick] [--redraw] [--list] [--seed N] [--out DIR]``."""

import sys

from analyses._run import main

sys.exit(main())
