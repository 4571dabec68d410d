"""Storages of Metaflow's kind (paths in, bytes out: local, S3, Azure, Google) as a ``DataStoreStorage``."""
