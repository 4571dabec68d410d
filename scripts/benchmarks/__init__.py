"""Measures sqlitestore against Metaflow's local datastore and what a user would write instead; see BENCHMARKS.md."""
