"""``python -m analyses [name ...] [--quick] [--redraw] [--list] [--gallery] [--workers N] …``."""

import sys

from analyses._run import main

sys.exit(main())
