"""What a CT is: voxels in Hounsfield units on a grid in LPS+ millimetres, read from DICOM or NIfTI."""
