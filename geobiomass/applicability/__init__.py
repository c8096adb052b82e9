"""Area of applicability: where the images of a map are similar to training data.

After Meyer and Pebesma (2021) [1]_, on the features that the network pools over
months. The dissimilarity of a location is its distance to the nearest training data,
divided by the mean distance among training data. The threshold comes from the
distances between training data of different chips or blocks. docs/explanation/
applicability.md explains the choices.

References
----------
.. [1] H. Meyer, E. Pebesma: Predicting into unknown space? Estimating the area of
   applicability of spatial prediction models. Methods in Ecology and Evolution 12
   (2021) 1620-1633, doi:10.1111/2041-210X.13650.
"""

from geobiomass.applicability.domain import Domain, Domains, View

__all__ = ["Domain", "Domains", "View"]
