"""Features of images and videos: extraction, tracking and the explorer page."""
