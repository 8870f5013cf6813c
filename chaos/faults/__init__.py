"""The catalogue of faults: one small class each, in one room a kind."""
