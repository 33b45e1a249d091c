"""Pictures, charts and pages."""
