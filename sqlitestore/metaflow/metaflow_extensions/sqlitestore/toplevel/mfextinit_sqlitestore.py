"""Names the modules by which Metaflow knows the plug-in's version, and what of its own the plug-in stands in for."""

toplevel = "sqlitestore_toplevel"
module_overrides = "sqlitestore_overrides"
