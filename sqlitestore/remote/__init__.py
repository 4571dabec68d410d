"""``push`` and ``pull``: runs between a file and a datastore of Metaflow's own."""
