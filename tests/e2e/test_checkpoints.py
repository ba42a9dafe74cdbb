"""Whole small checkpoints through the API, against the float64 model of tools/oracle.

tests/testdata/checkpoints/README.md says what they are and how oracle.json was made.
"""

from __future__ import annotations

import json
import pathlib

import openai
import pytest
from conftest import start_server, stop_server

CHECKPOINTS = pathlib.Path(__file__).parents[1] / "testdata" / "checkpoints"
TOLERANCE = 1e-3


@pytest.mark.parametrize("folder", sorted(path.name for path in CHECKPOINTS.iterdir()
                                          if path.is_dir()))
def test_log_probabilities_match_the_oracle(folder: str, tmp_path: pathlib.Path) -> None:
    checkpoint = CHECKPOINTS / folder
    oracle = json.loads((checkpoint / "oracle.json").read_text())
    # Dynamic RoPE goes with the context; 0 is the model's own.
    server = start_server(tmp_path, "--served-model-name", folder, "--matmul-kernel", "fp32",
                          "--max-context", str(oracle.get("max_context", 0)),
                          model=str(checkpoint))
    try:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        lengths = []
        for prompt in oracle["prompts"]:
            answer = client.completions.create(model=folder, prompt=prompt["tokens"], echo=True,
                                               logprobs=1, max_tokens=1, temperature=0)
            logprobs = answer.choices[0].logprobs.token_logprobs
            # The prompt's own tokens, of which the first has none, and the token after it.
            assert logprobs[0] is None
            assert len(logprobs) == len(prompt["tokens"]) + 1
            expected = [*prompt["logprobs"], max(prompt["next_logprobs"])]
            assert logprobs[1:] == pytest.approx(expected, abs=TOLERANCE)
            lengths.append(len(prompt["tokens"]))
        assert min(lengths) == 1 and max(lengths) == 1000
    finally:
        assert stop_server(server) == 0
