"""Images to bytes and back."""
