"""What `python -m ctsam3d.training` can be told to do: a module for what it is done to."""
