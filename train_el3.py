"""Trains enhancement layer 3, on trained base to el2."""

from sae.scripts import train

if __name__ == "__main__":
    train("el3")
