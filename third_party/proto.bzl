"""C++ code from a .proto file by the system's protoc."""

load("@rules_cc//cc:defs.bzl", "cc_library")

def cc_proto(name, src, **kwargs):
    """A cc_library with the messages of one .proto file.

    Args:
      name: of the library.
      src: the file, "x.proto"; the header is "<package>/x.pb.h".
      **kwargs: passed to cc_library.
    """
    stem = src[:-len(".proto")]
    native.genrule(
        name = name + "_protoc",
        srcs = [src],
        outs = [
            stem + ".pb.h",
            stem + ".pb.cc",
        ],
        cmd = "protoc --proto_path=. --cpp_out=$(GENDIR) $(location %s)" % src,
    )
    cc_library(
        name = name,
        srcs = [stem + ".pb.cc"],
        hdrs = [stem + ".pb.h"],
        deps = ["//third_party:protobuf"],
        **kwargs
    )
