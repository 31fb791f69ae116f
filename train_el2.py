"""Trains enhancement layer 2, on trained base and el1."""

from sae.scripts import train

if __name__ == "__main__":
    train("el2")
