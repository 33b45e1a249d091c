"""What features are worth: protocols with an id, one harness, the models under test behind one interface."""
