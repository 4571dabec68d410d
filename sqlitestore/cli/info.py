"""``sqlitestore info``."""

from __future__ import annotations

import click

from sqlitestore.cli.common import json_option, opened


@click.command()
@json_option
def info(as_json: bool) -> None:
    """Show what the file is: format, identity, who wrote it, sizes and counts.

    \b
    Example:
      sqlitestore --file runs.db info
    """  # noqa: D301 - click's mark for text that is not wrapped
    from sqlitestore.cli import output
    from sqlitestore.maintenance.info import info as facts_of

    with opened() as storage:
        facts = facts_of(storage.database)
        answer = {key: value for key, value in facts._asdict().items() if key != "counts"}
        answer = {"file": answer.pop("path")} | answer
        counts = facts.counts._asdict()
        if as_json:
            output.print_json(answer | {"counts": counts})
            return
        kinds: dict[str, output.Kind] = {"created": "time"}
        kinds |= {"file_size": "size", "log_size": "size", "page_size": "size", "pages": "count", "free_pages": "count"}
        output.print_facts([output.Column(key, kinds.get(key, "text")) for key in answer], answer)
        output.print_heading("Counts")
        output.print_facts([output.Column(key, "count") for key in counts], counts)
