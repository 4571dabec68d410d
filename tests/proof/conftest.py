"""The proofs: each part has a module that decides and reports, and a short default run of it."""
