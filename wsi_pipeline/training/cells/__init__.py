"""Cell classifiers: labelled cells through their data doors, fitting, and what is measured of them."""
