"""What needs a GPU: figures and tests of the whole."""
