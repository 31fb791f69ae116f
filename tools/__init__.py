"""What a clone needs beside the package: documents, figures and the whole reproduction."""
