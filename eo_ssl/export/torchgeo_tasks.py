"""TorchGeo's classification and segmentation tasks, under one name each whichever TorchGeo is installed.

TorchGeo 0.10 renamed ``torchgeo.trainers`` to ``torchgeo.tasks`` and dropped the suffix of the classes. The lines
below are all that knows it; a bundle's README.md carries them as they stand. Importing them takes seconds, so users
import this module where they need it.
"""

__all__ = ["ClassificationTask", "SemanticSegmentationTask"]

try:
    from torchgeo.tasks import Classification as ClassificationTask
    from torchgeo.tasks import SemanticSegmentation as SemanticSegmentationTask
except ModuleNotFoundError:  # TorchGeo 0.8 and 0.9
    from torchgeo.trainers import ClassificationTask, SemanticSegmentationTask
