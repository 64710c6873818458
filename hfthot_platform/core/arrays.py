"""Type aliases of numerical arrays.  Shapes stand in the docstrings of what takes and returns them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["BoolArray", "Float", "FloatArray", "FloatLike", "IntArray"]

#: Double precision, any shape.
FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]
#: What a public function accepts where it needs doubles: an array, a list, a Polars or pandas series.
FloatLike: TypeAlias = ArrayLike
#: A scalar that may come from Python or NumPy.
Float: TypeAlias = float | np.floating[Any]
