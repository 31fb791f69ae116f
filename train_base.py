"""Trains the base layer."""

from sae.scripts import train

if __name__ == "__main__":
    train("base")
