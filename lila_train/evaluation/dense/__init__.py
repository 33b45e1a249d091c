"""Dense probes: surface normals and semantic segmentation."""
