"""Wires the rooms into one release: stages in order, ports filled in."""
