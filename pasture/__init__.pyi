from .photos import TARGETS as TARGETS
from .photos import PhotoError as PhotoError
from .photos import read_photos as read_photos
from .photos import write_submission as write_submission
from .recipes import PastureRecipe as PastureRecipe
from .regressor import PastureRegressor as PastureRegressor
from .regressor import fit as fit
from .regressor import load as load
