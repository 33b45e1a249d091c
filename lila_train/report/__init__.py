"""What came of it, to look at: the demo's page, and tables of results."""
