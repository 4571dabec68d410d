"""The proofs of what the design promises; ``scripts/prove`` runs the same ones for longer."""
