#include <algorithm>
#include <cstring>

#include "kernels/cuda/copy_pieces.h"
#include "kernels/cuda/launch.cuh"

namespace treeline::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksOfPiece = 8;
constexpr size_t kMostPieces = 16384;  // Of a launch, whose list has to fit the uploads.

// Grid: pieces, blocks that share one.
__global__ void CopyPiecesKernel(const CopyParams* pieces) {
  WaitForEarlierKernels();
  const CopyParams piece = pieces[blockIdx.x];
  const int64_t first = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  const int64_t step = int64_t{kThreads} * gridDim.y;
  const auto copy = [&](auto* to, const auto* from, int64_t count) {
    for (int64_t i = first; i < count; i += step) to[i] = from[i];
  };
  const uint64_t bits = reinterpret_cast<uint64_t>(piece.to) |
                        reinterpret_cast<uint64_t>(piece.from) | uint64_t(piece.bytes);
  if (bits % sizeof(uint4) == 0) {
    copy(static_cast<uint4*>(piece.to), static_cast<const uint4*>(piece.from),
         piece.bytes / int64_t{sizeof(uint4)});
  } else {
    copy(static_cast<char*>(piece.to), static_cast<const char*>(piece.from), piece.bytes);
  }
}

}  // namespace

void CopyPieces(std::span<const CopyParams> pieces, Stream& stream) {
  while (!pieces.empty()) {
    const auto some = pieces.first(std::min(pieces.size(), kMostPieces));
    const std::byte* uploaded = stream.Upload(
        some.size_bytes(), [&](std::byte* to) { std::memcpy(to, some.data(), some.size_bytes()); });
    if (uploaded == nullptr) return;
    Launch(stream, "CopyPieces", CopyPiecesKernel,
           dim3(static_cast<unsigned>(some.size()), kBlocksOfPiece), kThreads, 0,
           reinterpret_cast<const CopyParams*>(uploaded));
    pieces = pieces.subspan(some.size());
  }
  // Not among the launches of a step, which recur.
  stream.Flush();
}

}  // namespace treeline::cuda
