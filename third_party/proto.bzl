"""C++ code from a .proto file by the system's protoc."""

load("@rules_cc//cc:defs.bzl", "cc_library")

def cc_proto(name, src, services = False, **kwargs):
    """A cc_library with the messages, and perhaps the gRPC services, of one .proto file.

    Args:
      name: of the library.
      src: the file, "x.proto"; the headers are "<package>/x.pb.h" and "<package>/x.grpc.pb.h".
      services: whether the file defines gRPC services.
      **kwargs: passed to cc_library.
    """
    stem = src[:-len(".proto")]
    srcs = [stem + ".pb.cc"]
    hdrs = [stem + ".pb.h"]
    deps = ["//third_party:protobuf"]
    flags = "--cpp_out=$(GENDIR)"
    if services:
        srcs.append(stem + ".grpc.pb.cc")
        hdrs.append(stem + ".grpc.pb.h")
        deps.append("//third_party:grpc")
        flags += " --plugin=protoc-gen-grpc=$$(command -v grpc_cpp_plugin) --grpc_out=$(GENDIR)"
    native.genrule(
        name = name + "_protoc",
        srcs = [src],
        outs = srcs + hdrs,
        cmd = "protoc --proto_path=. %s $(location %s)" % (flags, src),
    )
    cc_library(
        name = name,
        srcs = srcs,
        hdrs = hdrs,
        deps = deps,
        **kwargs
    )
