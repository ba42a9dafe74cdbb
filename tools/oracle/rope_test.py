"""oracle/rope.py against what transformers computes (make_rope_golden.py)."""

from __future__ import annotations

import json
import pathlib
import unittest

import numpy as np

from oracle import rope

_GOLDEN = pathlib.Path(__file__).parents[2] / "tests/testdata/rope/transformers_golden.json"
# transformers computes frequencies in float32: a power, and for yarn a difference of near values.
_FLOAT32_ERROR = 1e-6


class RopeTest(unittest.TestCase):
    def test_frequencies_are_those_of_transformers(self) -> None:
        golden = json.loads(_GOLDEN.read_text(encoding="utf-8"))
        for case in golden["cases"]:
            with self.subTest(case["name"]):
                actual, scale = rope.frequencies(case["config"], golden["max_context"])
                expected = np.array(case["inverse_frequencies"])
                self.assertLessEqual(np.abs(actual / expected - 1).max(), _FLOAT32_ERROR)
                self.assertAlmostEqual(scale, case["scale"], places=12)


if __name__ == "__main__":
    unittest.main()
