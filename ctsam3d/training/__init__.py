"""Train and evaluate the networks; needs neither Ray nor a bucket."""
