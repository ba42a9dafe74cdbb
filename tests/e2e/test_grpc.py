"""The gRPC API by Python's grpcio, beside the HTTP API of the same server."""

from __future__ import annotations

import concurrent.futures
import importlib
import json
import pathlib
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator

import grpc
import pytest
from conftest import Server, make_certificate, spans, start_server, stop_server
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_tools import protoc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SERVICE = "treeline.v1.Inference"
PROMPT = "One, two, three,"


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory):
    """The modules (messages, stubs) that protoc makes of proto/inference.proto."""
    folder = tmp_path_factory.mktemp("stubs")
    status = protoc.main(["protoc", f"--proto_path={REPOSITORY}", f"--python_out={folder}",
                          f"--grpc_python_out={folder}", "proto/inference.proto"])
    assert status == 0
    sys.path.insert(0, str(folder))
    return (importlib.import_module("proto.inference_pb2"),
            importlib.import_module("proto.inference_pb2_grpc"))


@pytest.fixture(scope="module")
def grpc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("grpc"), "--served-model-name", "smollm2",
                           "--grpc-port", "0", "--max-queued-requests", "1000")
    yield running
    assert stop_server(running) == 0


@pytest.fixture(scope="module")
def channel(grpc_server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{grpc_server.grpc_port}") as channel:
        yield channel


@pytest.fixture()
def stub(api, channel: grpc.Channel):
    return api[1].InferenceStub(channel)


def metric(server: Server, name: str) -> float:
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        return sum(float(line.split()[-1]) for line in response.read().decode().splitlines()
                   if line.startswith((f"treeline_{name}{{", f"treeline_{name} ")))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def post(server: Server, path: str, **body) -> dict:
    request = urllib.request.Request(f"{server.url}{path}", json.dumps(body).encode())
    return json.load(urllib.request.urlopen(request))


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 7}])
def test_a_stream_says_what_http_says(api, stub, grpc_server: Server, sampling: dict) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 24, "logprobs": 2, "ignore_eos": True,
             "skip_special_tokens": False, **sampling}
    parts = list(stub.Generate(api[0].GenerateRequest(**asked)))
    http = post(grpc_server, "/v1/completions", **asked)
    choice = http["choices"][0]
    assert "".join(part.text for part in parts) == choice["text"]
    logprobs = [token.logprob for part in parts for token in part.logprobs]
    assert logprobs == pytest.approx(choice["logprobs"]["token_logprobs"], abs=1e-3)
    assert all(len(token.top) == 2 for part in parts for token in part.logprobs)
    assert parts[-2].finish_reason == api[0].FINISH_REASON_LENGTH
    assert parts[-1].usage.prompt_tokens == http["usage"]["prompt_tokens"]
    assert parts[-1].usage.completion_tokens == 24
    ids = [token for part in parts for token in part.token_ids]
    assert stub.Detokenize(api[0].DetokenizeRequest(token_ids=ids)).text == choice["text"]


def test_chats_say_what_http_says(api, stub, grpc_server: Server) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    chat = api[0].Chat(messages=[api[0].ChatMessage(**message) for message in messages])
    parts = list(stub.Generate(api[0].GenerateRequest(chat=chat, max_tokens=20, temperature=0)))
    http = post(grpc_server, "/v1/chat/completions", messages=messages, max_tokens=20,
                temperature=0)
    assert "".join(part.text for part in parts) == http["choices"][0]["message"]["content"]
    tokens = stub.Tokenize(api[0].TokenizeRequest(chat=chat)).token_ids
    assert list(tokens) == post(grpc_server, "/tokenize", messages=messages)["tokens"]


def test_a_batch_says_what_single_calls_say(api, stub) -> None:
    prompts = ["The sun", "A cat", PROMPT]
    requests = [api[0].GenerateRequest(prompt=prompt, max_tokens=8, temperature=0)
                for prompt in prompts]
    batch = stub.GenerateBatch(api[0].GenerateBatchRequest(requests=requests))
    alone = ["".join(part.text for part in stub.Generate(request)) for request in requests]
    assert [result.choices[0].text for result in batch.results] == alone
    assert [result.usage.completion_tokens for result in batch.results] == [8, 8, 8]


def test_model_info(api, stub, grpc_server: Server) -> None:
    info = stub.ModelInfo(api[0].ModelInfoRequest())
    with urllib.request.urlopen(f"{grpc_server.url}/v1/models") as response:
        model = json.load(response)["data"][0]
    assert list(info.names) == [model["id"]] == ["smollm2"]
    assert info.max_context == model["max_model_len"]


def test_errors_carry_their_field(api, stub) -> None:
    with pytest.raises(grpc.RpcError) as error:
        list(stub.Generate(api[0].GenerateRequest(prompt="x", temperature=9)))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert dict(error.value.trailing_metadata())["error-param"] == "temperature"
    with pytest.raises(grpc.RpcError) as error:
        list(stub.Generate(api[0].GenerateRequest(prompt="x", model="gpt-5")))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert dict(error.value.trailing_metadata())["error-code"] == "model_not_found"
    with pytest.raises(grpc.RpcError) as error:
        stub.Tokenize(api[0].TokenizeRequest(prompt="x" * 9_000_000))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_deadline_frees_the_slot(api, stub, grpc_server: Server) -> None:
    request = api[0].GenerateRequest(prompt=PROMPT, max_tokens=6000, ignore_eos=True)
    seen, timeout_s = 0, 0.25
    while seen < 2:  # The deadline passes in the middle, after a step that the metrics told of.
        seen, timeout_s = 0, 2 * timeout_s
        with pytest.raises(grpc.RpcError) as error:
            for _ in stub.Generate(request, timeout=timeout_s):
                seen += 1
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: metric(grpc_server, "num_requests_running") == 0)
    wait_for(lambda: metric(grpc_server, "state_slots_used") == 0)


def test_cancelling_frees_the_slot(api, stub, grpc_server: Server) -> None:
    call = stub.Generate(api[0].GenerateRequest(prompt=PROMPT, max_tokens=6000, ignore_eos=True))
    next(call)
    wait_for(lambda: metric(grpc_server, "num_requests_running") == 1)  # Told after the step.
    call.cancel()
    wait_for(lambda: metric(grpc_server, "num_requests_running") == 0)
    wait_for(lambda: metric(grpc_server, "state_slots_used") == 0)


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    answers = stub.ServerReflectionInfo(iter([
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)]))
    services = {service.name for service in next(answers).list_services_response.service}
    assert services == {SERVICE, "grpc.health.v1.Health",
                        "grpc.reflection.v1alpha.ServerReflection"}
    assert len(next(answers).file_descriptor_response.file_descriptor_proto) == 1


def test_500_streams_at_once(api, stub, grpc_server: Server) -> None:
    threads = pathlib.Path(f"/proc/{grpc_server.process.pid}/task")
    idle_threads = len(list(threads.iterdir()))
    calls = [stub.Generate(api[0].GenerateRequest(prompt=PROMPT, max_tokens=4, seed=i,
                                                  temperature=1, ignore_eos=True))
             for i in range(500)]
    assert len(list(threads.iterdir())) < idle_threads + 30  # No thread a stream.
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(list, calls))
    assert all(answer[-1].usage.completion_tokens == 4 for answer in answers)
    # What HTTP says to one seed alone, whatever ran beside it here.
    for seed in range(0, 500, 25):
        alone = post(grpc_server, "/v1/completions", prompt=PROMPT, max_tokens=4, seed=seed,
                     temperature=1, ignore_eos=True)
        assert "".join(part.text for part in answers[seed]) == alone["choices"][0]["text"]


def test_a_client_that_does_not_read_is_dropped(api, tmp_path: pathlib.Path) -> None:
    server = start_server(tmp_path, "--grpc-port", "0", "--write-timeout-seconds", "0.5")
    options = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=options) as channel:
        call = api[1].InferenceStub(channel).Generate(api[0].GenerateRequest(
            prompt=PROMPT, max_tokens=100, logprobs=20, ignore_eos=True))
        wait_for(lambda: metric(server, "grpc_requests_total") == 1)  # The call has ended.
        with pytest.raises(grpc.RpcError) as error:
            list(call)
        assert error.value.code() == grpc.StatusCode.CANCELLED
    wait_for(lambda: metric(server, "state_slots_used") == 0)
    assert stop_server(server) == 0


def test_tls_and_a_renewed_certificate(api, tmp_path: pathlib.Path) -> None:
    certificate = tmp_path / "cert.pem"
    make_certificate(tmp_path)
    secure = start_server(tmp_path, "--grpc-port", "0", "--tls-cert", str(certificate),
                          "--tls-key", str(tmp_path / "key.pem"))
    address = f"127.0.0.1:{secure.grpc_port}"

    def answers(credentials: grpc.ChannelCredentials | None) -> bool:
        channel = grpc.secure_channel(address, credentials) if credentials else \
            grpc.insecure_channel(address)
        with channel:
            try:
                api[1].InferenceStub(channel).ModelInfo(api[0].ModelInfoRequest())
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                return False
            return True

    def trusting() -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(certificate.read_bytes())

    first = trusting()
    assert answers(first)
    assert not answers(None)
    make_certificate(tmp_path)  # No signal is needed.
    wait_for(lambda: answers(trusting()))
    assert not answers(first)
    assert stop_server(secure) == 0


def test_a_call_is_a_span_of_its_clients_trace(api, tmp_path: pathlib.Path) -> None:
    server = start_server(tmp_path, "--grpc-port", "0", "--request-log", "json")
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = api[1].InferenceStub(channel).Generate(
            api[0].GenerateRequest(prompt=PROMPT, max_tokens=3, ignore_eos=True),
            metadata=[("traceparent", parent)])
        assert len(list(call)) > 0
        echoed = dict(call.initial_metadata())["traceparent"].split("-")
    assert stop_server(server) == 0
    span, = spans(tmp_path)
    assert echoed == ["00", span["trace_id"], span["span_id"], "01"]
    assert span["trace_id"] == parent.split("-")[1]
    assert span["parent_span_id"] == parent.split("-")[2]
    assert (span["name"], span["status"]) == ("gRPC Generate", "OK")
    assert (span["prompt_tokens"], span["completion_tokens"]) == (6, 3)
    assert {"queue_ms", "prefill_ms", "decode_ms", "duration_ms", "start"} <= set(span)


def test_metrics_count_calls(api, stub, grpc_server: Server) -> None:
    before = metric(grpc_server, "grpc_requests_total")
    stub.ModelInfo(api[0].ModelInfoRequest())
    wait_for(lambda: metric(grpc_server, "grpc_requests_total") == before + 1)


def test_health_follows_draining(api, tmp_path: pathlib.Path) -> None:
    draining = start_server(tmp_path, "--grpc-port", "0")
    with grpc.insecure_channel(f"127.0.0.1:{draining.grpc_port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        for name in ("", SERVICE):
            request = health_pb2.HealthCheckRequest(service=name)
            wait_for(lambda request=request: health.Check(request).status == serving)
        with pytest.raises(grpc.RpcError) as error:
            health.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
        changes = health.Watch(health_pb2.HealthCheckRequest())
        assert next(changes).status == serving

        stub = api[1].InferenceStub(channel)
        call = stub.Generate(api[0].GenerateRequest(prompt=PROMPT, max_tokens=100,
                                                    ignore_eos=True))
        next(call)
        draining.process.send_signal(signal.SIGTERM)
        assert next(changes).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as error:
            list(stub.Generate(api[0].GenerateRequest(prompt=PROMPT)))
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert list(call)[-1].usage.completion_tokens == 100
    assert draining.process.wait(timeout=60) == 0
