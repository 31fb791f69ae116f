"""Measures rate and quality after enhancement layer 3: real files, really decoded."""

from sae.scripts import test

if __name__ == "__main__":
    test("el3")
