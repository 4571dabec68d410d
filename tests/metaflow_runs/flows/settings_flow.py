"""What a run is told from outside: a project, a configuration, variables of the environment."""

from __future__ import annotations

import os

from metaflow import Config, FlowSpec, config_expr, current, environment, project, step


@project(name="kitchen")
class SettingsFlow(FlowSpec):
    """Notes what it was told."""

    settings = Config("settings", default_value='{"depth": 2, "soup": {"salt": "much"}}')

    @environment(vars={"FLAVOUR": config_expr("settings.soup.salt")})
    @step
    def start(self) -> None:
        """Note it."""
        self.flavour = os.environ.get("FLAVOUR")
        self.depth = self.settings.depth
        self.project = {
            name: getattr(current, name)
            for name in ("project_name", "branch_name", "is_user_branch", "is_production", "project_flow_name")
        }
        self.next(self.end)

    @step
    def end(self) -> None:
        """Without the variable."""
        self.flavour = os.environ.get("FLAVOUR")


if __name__ == "__main__":
    SettingsFlow()
