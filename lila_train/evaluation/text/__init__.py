"""Zero-shot and open-vocabulary segmentation with CLIP text embeddings."""
