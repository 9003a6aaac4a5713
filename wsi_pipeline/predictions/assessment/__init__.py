"""How good a model is, on patients it has not seen: every figure with its interval and a trivial baseline beside it."""
