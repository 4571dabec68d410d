"""What the plug-in adds to Metaflow's configuration: environment variables and profiles name the file with it."""

from metaflow.metaflow_config_funcs import from_conf

DATASTORE_SYSROOT_SQLITE = from_conf("DATASTORE_SYSROOT_SQLITE")
"""The database file, or the folder it is in: METAFLOW_DATASTORE_SYSROOT_SQLITE."""
