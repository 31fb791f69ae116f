"""What a decoder must know: layers, their families and their checkpoints."""
