"""CT-SAM3D on one study: volumes, anatomy, the network, whole-organ segmentation, training. No Ray, no buckets."""
