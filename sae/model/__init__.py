"""The model: layers, their families and their checkpoints."""
