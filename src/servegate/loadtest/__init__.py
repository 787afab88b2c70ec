"""Load: schedule → requests → records."""
