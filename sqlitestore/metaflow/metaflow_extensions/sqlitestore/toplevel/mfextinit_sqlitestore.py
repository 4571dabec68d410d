"""Names the module by which Metaflow knows that the plug-in is installed, and which version."""

toplevel = "sqlitestore_toplevel"
