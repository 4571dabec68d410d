"""Tests of the proofs: each runs a short part of what ``scripts/prove`` runs for minutes."""
