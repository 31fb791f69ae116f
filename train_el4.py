"""Trains enhancement layer 4, on trained base to el3."""

from sae.scripts import train

if __name__ == "__main__":
    train("el4")
