"""The published network: image encoder, click maps, mask decoder, cross-patch predictor, checkpoints."""
