"""What a paper shows: figures, tables, pages."""
