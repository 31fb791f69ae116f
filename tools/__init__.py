"""Tools of a clone, not in the package: documents, figures and the reproduction."""
