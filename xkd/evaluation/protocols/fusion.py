"""Late fusion: a linear SVM on the features of both modalities (supplement A.5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xkd.evaluation.features import ClipFeatures
from xkd.evaluation.protocols.svm import LinearSVM


class LateFusion(LinearSVM):
    """A linear SVM on concatenated features."""

    def join(self, features: Sequence[ClipFeatures]) -> ClipFeatures:
        """Concatenate the features of each window."""
        return features[0]._replace(features=np.concatenate([part.features for part in features], axis=1))
