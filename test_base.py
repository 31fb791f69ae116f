"""Measures rate and quality after the base layer: real files, really decoded."""

from sae.scripts import test

if __name__ == "__main__":
    test("base")
