"""cuda_library: a cc_library whose sources are .cu files.

nvcc compiles each source; the toolchain's own compiler does its host part and all linking, so the
result is an ordinary CcInfo. Use it in //kernels/cuda only. CUDA's headers are nvcc's own: a
header that other code includes must not include them.
"""

load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")

# What the binary carries. Machine code for 8.0 also runs on 8.6 and 8.9; 9.0a (Hopper, with its
# warpgroup instructions) needs its own; the driver translates the PTX for anything newer.
_ARCHITECTURES = [
    "-gencode=arch=compute_80,code=[sm_80,compute_80]",
    "-gencode=arch=compute_90a,code=sm_90a",
]

# Actions see Bazel's fixed PATH, so CUDA's customary place is added to it.
CUDA_PATH = "$PATH:/usr/local/cuda/bin"

# Such targets do not exist in a CPU build: `//...` skips them.
REQUIRES_CUDA = select({
    "//:cuda": [],
    "//conditions:default": ["@platforms//:incompatible"],
})

def _compile(ctx, source, context, compiler):
    object_file = ctx.actions.declare_file("_objs/%s/%s.o" % (ctx.label.name, source.basename))
    arguments = ctx.actions.args()
    arguments.add_all(["-c", source, "-o", object_file, "-ccbin", compiler])
    arguments.add_all(_ARCHITECTURES)
    arguments.add_all(["-std=c++20", "-O3", "-Werror=all-warnings"])
    arguments.add("-Xcompiler=-fPIC,-Wall,-Wextra,-Werror")
    arguments.add_all(context.defines, before_each = "-D")
    arguments.add_all(context.quote_includes, before_each = "-I")
    arguments.add_all(context.includes, before_each = "-I")
    arguments.add_all(context.system_includes, before_each = "-isystem")
    ctx.actions.run_shell(
        # nvcc names temporary files after its process ID, which in Bazel's sandboxes is often the
        # same: in one folder, two that run at once take each other's.
        command = """
            temporary=$(mktemp -d) && trap 'rm -rf "$temporary"' EXIT
            PATH=%s TMPDIR=$temporary nvcc "$@"
        """ % CUDA_PATH,
        arguments = [arguments],
        inputs = depset([source], transitive = [context.headers]),
        outputs = [object_file],
        mnemonic = "CudaCompile",
        progress_message = "Compiling %s with nvcc" % source.short_path,
        use_default_shell_env = True,
    )
    return object_file

def _cuda_library_impl(ctx):
    toolchain = find_cpp_toolchain(ctx)
    features = cc_common.configure_features(ctx = ctx, cc_toolchain = toolchain)
    own = cc_common.create_compilation_context(
        headers = depset(ctx.files.hdrs),
        quote_includes = depset([".", ctx.genfiles_dir.path]),
    )
    dependencies = [dep[CcInfo] for dep in ctx.attr.deps]
    context = cc_common.merge_cc_infos(
        direct_cc_infos = [CcInfo(compilation_context = own)],
        cc_infos = dependencies,
    ).compilation_context
    objects = depset([
        _compile(ctx, source, context, toolchain.compiler_executable)
        for source in ctx.files.srcs
    ])
    linking_context, _ = cc_common.create_linking_context_from_compilation_outputs(
        actions = ctx.actions,
        name = ctx.label.name,
        feature_configuration = features,
        cc_toolchain = toolchain,
        compilation_outputs = cc_common.create_compilation_outputs(
            objects = objects,
            pic_objects = objects,
        ),
        linking_contexts = [dep.linking_context for dep in dependencies],
        # One copy of the static CUDA runtime in a process: in the binary.
        disallow_dynamic_library = True,
    )
    return [CcInfo(compilation_context = context, linking_context = linking_context)]

_cuda_library = rule(
    implementation = _cuda_library_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"], mandatory = True),
        "hdrs": attr.label_list(allow_files = [".h", ".cuh"]),
        "deps": attr.label_list(providers = [CcInfo]),
        "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
    },
    fragments = ["cpp"],
    provides = [CcInfo],
)

def cuda_library(name, srcs, hdrs = [], deps = [], **kwargs):
    """A library of CUDA sources, linked with the static CUDA runtime.

    Args:
      name: the target's name.
      srcs: .cu files.
      hdrs: .h files for everybody, .cuh files for other CUDA sources.
      deps: cc_library and cuda_library targets.
      **kwargs: visibility, tags and the like.
    """
    _cuda_library(
        name = name,
        srcs = srcs,
        hdrs = hdrs,
        deps = deps + ["//kernels/cuda:runtime"],
        target_compatible_with = REQUIRES_CUDA,
        **kwargs
    )
