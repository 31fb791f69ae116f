"""Trains enhancement layer 1, on trained base."""

from sae.scripts import train

if __name__ == "__main__":
    train("el1")
