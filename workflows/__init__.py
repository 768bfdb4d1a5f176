"""One module per command; each composes rooms and holds no algorithm."""
