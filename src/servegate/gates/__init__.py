"""Gates: policy + reports → verdict."""
