"""Float64 NumPy models that the engine is tested against. They share no code with the engine."""
