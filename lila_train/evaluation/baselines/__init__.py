"""Other models behind the interface of `evaluation.models`."""
