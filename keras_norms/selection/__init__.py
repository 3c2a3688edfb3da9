"""Which norm for a model and its data: trains the model with several, and judges them."""
