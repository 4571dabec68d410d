"""Imported last by the process that forks the others: what is there by then, no garbage collection looks at again.

Else the first one in each process copies all pages that it shares with the others, in the middle of what is measured.
"""

import gc

gc.collect()
gc.freeze()
