"""The command line: ``sqlitestore [--file FILE] COMMAND``. A leaf: it imports the core, nothing imports it.

Only ``get --print`` unpickles; every other command looks at names, sizes, previews and bytes. What comes from the file
may be a stranger's: texts are cleaned before they reach a terminal (``text.clean``).
"""

from sqlitestore.cli.app import main

__all__ = ["main"]
