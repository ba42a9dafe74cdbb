r"""Streams an answer over gRPC.

    python3 -m venv build/client
    build/client/bin/pip install grpcio grpcio-tools
    build/client/bin/python -m grpc_tools.protoc -I . --python_out=build --grpc_python_out=build \
      proto/inference.proto
    build/client/bin/python examples/grpc/generate.py 127.0.0.1:8081 "What is the capital of France?"

Run these in the repository's folder (Debian: the first needs python3-venv). An API key goes into the
environment variable TREELINE_API_KEY.
"""

import os
import pathlib
import sys

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "build"))
from proto import inference_pb2, inference_pb2_grpc  # noqa: E402


def main() -> None:
    address, question = sys.argv[1:]
    key = os.environ.get("TREELINE_API_KEY")
    metadata = [("authorization", f"Bearer {key}")] if key else []
    request = inference_pb2.GenerateRequest(
        chat=inference_pb2.Chat(
            messages=[inference_pb2.ChatMessage(role="user", content=question)]),
        max_tokens=200,
        temperature=0,
    )
    with grpc.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        for part in stub.Generate(request, metadata=metadata, timeout=60):
            print(part.text, end="", flush=True)
            if part.HasField("usage"):
                print(f"\n{part.usage.completion_tokens} tokens")


if __name__ == "__main__":
    main()
