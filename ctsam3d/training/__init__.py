"""Train the networks; needs neither Ray nor a bucket."""
