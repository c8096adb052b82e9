"""Area of applicability: where a map is made from what training has seen.

After Meyer and Pebesma (2021) [1]_, on what the network pools over months: how far a
place is from the nearest training data, by the mean distance among those, against the
distances that training data of other chips or blocks have. docs/explanation/
applicability.md tells what was decided, and why.

References
----------
.. [1] H. Meyer, E. Pebesma: Predicting into unknown space? Estimating the area of
   applicability of spatial prediction models. Methods in Ecology and Evolution 12
   (2021) 1620-1633, doi:10.1111/2041-210X.13650.
"""

from geobiomass.applicability.domain import Domain, Domains, View

__all__ = ["Domain", "Domains", "View"]
