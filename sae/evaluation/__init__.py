"""Rate and quality, ours and others."""
