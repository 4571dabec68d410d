"""``python -m sqlitestore.cli``."""

import sys

from sqlitestore.cli.app import main

sys.exit(main())
