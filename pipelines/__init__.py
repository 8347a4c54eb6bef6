"""Cohorts of studies: stores, manifests, Ray, records, tables and the command line around `ctsam3d`."""
