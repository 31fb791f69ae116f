"""The models: networks, families, and checkpoints."""
