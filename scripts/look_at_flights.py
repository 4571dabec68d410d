"""What Metaflow's own client sees: the latest run of FlightsFlow, of whichever user.

python scripts/look_at_flights.py FILE
"""

from __future__ import annotations

import sys

from metaflow import Flow, metadata, namespace
from metaflow.cards import get_cards

metadata(f"sqlite@{sys.argv[1]}")
namespace(None)

run = Flow("FlightsFlow").latest_run
print(run.pathspec, "succeeded" if run.successful else "failed")
print("tags:", *sorted(run.tags))
print(run.data.summary)
[card] = get_cards(run["join"].task)
print(f"card: {len(card.get()):,} bytes of HTML")
