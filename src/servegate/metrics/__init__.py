"""Engine metrics: text → samples → deltas, and the names per engine version."""
