#include <cuda.h>

#include <algorithm>
#include <array>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/product_outputs.cuh"
#include "kernels/cuda/warp_group.cuh"
#include "kernels/cuda/weight_stream.h"

namespace treeline::cuda {
namespace {

// Fewer go by lanes (few_rows.cu), more leave the tensor cores too little time.
constexpr int kFewestRows = 5, kMostRows = 64;
// The whole of a multiprocessor's: what is on its way at once decides the rate. Barriers come
// besides.
constexpr int kSharedBytes = 210 << 10;
constexpr int kMostStages = 12;

// How a block of threads is made: kGroups warp groups multiply kTiles tiles of weights each by
// kXRows rows of x, and one more warp fetches.
template <int kRowsOfX, int kWarpGroups, int kTilesOfGroup>
struct BlockShape {
  static constexpr int kXRows = kRowsOfX, kGroups = kWarpGroups, kTiles = kTilesOfGroup;
  static constexpr int kThreads = kGroups * kWarpGroup + kWarp;
  static constexpr int kWeightRows = kGroups * kTiles * kTileRows;
  // A chunk: a tile's depth of weights, and of x after them.
  static constexpr int kChunk = (kWeightRows + kXRows) * kTileDepth;
  static constexpr int kStages = std::min<int>(kMostStages, kSharedBytes / (kChunk * sizeof(Bf16)));
  static constexpr int kBytes = kStages * kChunk * sizeof(Bf16);
  // What the block has summed takes the chunks' place, [kXRows, kStride]: lanes that write a tile's
  // sums meet different banks.
  static constexpr int kStride = kWeightRows + 4;
  static_assert(kXRows * kStride * sizeof(float) <= kBytes);
};

template <int kMatrices>
struct Maps {
  CUtensorMap weights[kMatrices];
  CUtensorMap x;
};

// A place in the ring of stages.
template <int kStages>
struct Turn {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void Next() {
    if (++stage < kStages) return;
    stage = 0;
    phase ^= 1;
  }
};

// y [rows, n], for up to kXRows rows. A block takes kWeightRows rows of weights, and of k a part:
// the `splits` blocks of a cluster have the parts of the same rows. One thread has chunks fetched
// and is as many ahead as there are stages; weights come also while earlier kernels still run.
// REQUIRES: splits <= number of chunks.
template <typename Shape, typename Output>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    StreamKernel(Output output, const __grid_constant__ Maps<Output::kMatrices> maps, int n, int k,
                 int splits) {
  LetNextKernelComeUp();
  constexpr int kXRows = Shape::kXRows, kTiles = Shape::kTiles, kStages = Shape::kStages;
  constexpr int kColumns = Shape::kWeightRows / Output::kMatrices;
  const int part = blockIdx.x % splits, first_column = blockIdx.x / splits * kColumns;
  const int chunks = static_cast<int>(CeilDiv(k, kTileDepth));
  const int begin = chunks * part / splits, count = chunks * (part + 1) / splits - begin;
  const int group = threadIdx.x / kWarpGroup, warp = threadIdx.x % kWarpGroup / kWarp;
  const int lane = threadIdx.x % kWarp;
  Bf16* const ring = reinterpret_cast<Bf16*>(SharedFloats());
  const auto weights_of = [&](int stage) { return ring + stage * Shape::kChunk; };
  const auto x_of = [&](int stage) { return weights_of(stage) + Shape::kWeightRows * kTileDepth; };
  __shared__ Barrier there[kStages], done[kStages];
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      MakeBarrier(there[stage], 1);
      MakeBarrier(done[stage], Shape::kGroups);
    }
    LetCopiesSeeBarriers();
  }
  __syncthreads();

  float sums[kTiles][kXRows / 2] = {};
  if (group < Shape::kGroups) {
    Turn<kStages> turn;
    for (int i = 0; i < count; ++i, turn.Next()) {
      WaitForPhase(there[turn.stage], turn.phase);
      const Bf16* mine = weights_of(turn.stage) + group * kTiles * kTileRows * kTileDepth;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        MultiplyTiles<kXRows>(sums[tile], mine + tile * kTileRows * kTileDepth, x_of(turn.stage));
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) WaitForTiles(sums[tile]);
      if (threadIdx.x % kWarpGroup == 0) Arrive(done[turn.stage]);
    }
  } else if (lane == 0) {
    const auto fetch_weights = [&](int chunk, int stage) {
      ArriveExpecting(there[stage], Shape::kChunk * sizeof(Bf16));
#pragma unroll
      for (int m = 0; m < Output::kMatrices; ++m) {
        CopyBox(weights_of(stage) + m * kColumns * kTileDepth, maps.weights[m], first_column,
                (begin + chunk) * kTileDepth, there[stage]);
      }
    };
    const auto fetch_x = [&](int chunk, int stage) {
      CopyBox(x_of(stage), maps.x, 0, (begin + chunk) * kTileDepth, there[stage]);
    };
    const int early = min(kStages, count);
    for (int i = 0; i < early; ++i) fetch_weights(i, i);
    WaitForEarlierKernels();
    for (int i = 0; i < early; ++i) fetch_x(i, i);
    Turn<kStages> turn;
    for (int i = early; i < count; ++i, turn.Next()) {
      WaitForPhase(done[turn.stage], turn.phase);
      fetch_weights(i, turn.stage);
      fetch_x(i, turn.stage);
    }
  }
  __syncwarp();
  WaitForEarlierKernels();  // They may have written y, or still read it.
  __syncthreads();

  float* const block_sums = SharedFloats();
  if (group < Shape::kGroups) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < kXRows / 2; ++i) {
        const int row = i / 4 * 8 + 2 * (lane % 4) + i % 2;
        const int weight_row =
            (group * kTiles + tile) * kTileRows + warp * 16 + lane / 4 + i % 4 / 2 * 8;
        block_sums[row * Shape::kStride + weight_row] = sums[tile][i];
      }
    }
  }
  if (splits == 1) {
    __syncthreads();
  } else {
    WaitForCluster();
  }
  StoreSums<Shape::kWeightRows, Shape::kStride, kColumns, Shape::kThreads>(
      output, block_sums, splits, part, first_column, n, [](int) { return 1.0f; });
  if (splits > 1) LeaveCluster();  // Others may still read this block's memory.
}

// The driver's function that describes a matrix to the copying unit; null where it has none.
decltype(&cuTensorMapEncodeTiled) TensorMapEncoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                              12000, cudaEnableDefault, &result);
    const bool found = code == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return found ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function) : nullptr;
  }();
  return encoder;
}

// Boxes of `box_rows` rows and a tile's depth of bf16 [rows, k], laid out as warp groups want them
// (warp_group.cuh). False where the copying unit does not take such a matrix.
bool DescribeBoxes(const void* data, int rows, int k, int box_rows, CUtensorMap& map) {
  const std::array<cuuint64_t, 2> sizes = {static_cast<cuuint64_t>(k),
                                           static_cast<cuuint64_t>(rows)};
  const cuuint64_t row_bytes = size_t(k) * sizeof(Bf16);
  const std::array<cuuint32_t, 2> box = {kTileDepth, static_cast<cuuint32_t>(box_rows)};
  const std::array<cuuint32_t, 2> steps = {1, 1};
  return TensorMapEncoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data),
                            sizes.data(), &row_bytes, box.data(), steps.data(),
                            CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// A product of bf16 matrices [n, k] with x, and how blocks share it out.
template <typename Output>
class StreamedProduct {
 public:
  StreamedProduct(const Output& output, const void* x,
                  std::array<const void*, Output::kMatrices> matrices, int n, int k, Stream& stream)
      : output_(output), x_(x), matrices_(matrices), n_(n), k_(k), stream_(stream) {}

  // False, and nothing is enqueued, where the blocks would not all run at once: such a matrix keeps
  // others as busy.
  bool Launch() {
    if (output_.params.rows <= 16) return LaunchWith<16>();
    if (output_.params.rows <= 32) return LaunchWith<32>();
    return LaunchWith<kMostRows>();
  }

 private:
  template <int kXRows>
  bool LaunchWith() {
    Consider<BlockShape<kXRows, 1, 1>>();
    Consider<BlockShape<kXRows, 2, 1>>();
    Consider<BlockShape<kXRows, 3, 1>>();
    Consider<BlockShape<kXRows, 2, 2>>();
    return most_blocks_ > 0 && (this->*launch_)();
  }

  // The more multiprocessors take part, the better, and of equals the one with fewer sums to add.
  template <typename Shape>
  void Consider() {
    const int tiles = static_cast<int>(CeilDiv(n_, Shape::kWeightRows / Output::kMatrices));
    // More blocks of a cluster than this find no room on many of the multiprocessors.
    constexpr int kMost = 4;
    static_assert(kMost <= kMostSplits);
    const int most = static_cast<int>(std::min<int64_t>(kMost, CeilDiv(k_, kTileDepth)));
    for (int splits = 1; splits <= most; ++splits) {
      const int blocks = tiles * splits;
      if (blocks > stream_.num_multiprocessors()) break;
      const bool better = blocks > most_blocks_ || (blocks == most_blocks_ && splits < splits_);
      if (!better || tiles > ClustersAtOnce(stream_, "MatMul", StreamKernel<Shape, Output>, splits,
                                            Shape::kThreads, Shape::kBytes)) {
        continue;
      }
      most_blocks_ = blocks;
      splits_ = splits;
      launch_ = &StreamedProduct::LaunchShape<Shape>;
    }
  }

  template <typename Shape>
  bool LaunchShape() {
    Maps<Output::kMatrices> maps{};  // All its bytes count (launch_queue.h).
    if (!DescribeBoxes(x_, output_.params.rows, k_, Shape::kXRows, maps.x)) return false;
    for (int m = 0; m < Output::kMatrices; ++m) {
      if (!DescribeBoxes(matrices_[m], n_, k_, Shape::kWeightRows / Output::kMatrices,
                         maps.weights[m])) {
        return false;
      }
    }
    LaunchClusters(stream_, "MatMul", StreamKernel<Shape, Output>, dim3(most_blocks_), splits_,
                   Shape::kThreads, Shape::kBytes, output_, maps, n_, k_, splits_);
    return true;
  }

  const Output& output_;
  const void* const x_;
  const std::array<const void*, Output::kMatrices> matrices_;
  const int n_, k_;
  Stream& stream_;

  int most_blocks_ = 0, splits_ = 0;
  bool (StreamedProduct::*launch_)() = nullptr;
};

template <typename Output>
bool Multiply(const Output& output, const void* x, const DeviceMatrix& shape,
              std::array<const void*, Output::kMatrices> matrices, Stream& stream) {
  const int rows = output.params.rows;
  return shape.type == WeightType::kBF16 && rows >= kFewestRows && rows <= kMostRows &&
         shape.k % kVector == 0 && stream.has_clusters() &&
         stream.max_shared_memory() > kSharedBytes && TensorMapEncoder() != nullptr &&
         StreamedProduct<Output>(output, x, matrices, shape.n, shape.k, stream).Launch();
}

}  // namespace

bool MatMulByStream(const MatMulParams& params, const void* x, const DeviceMatrix& matrix,
                    Stream& stream) {
  return Multiply(Columns{params}, x, matrix, {matrix.data}, stream);
}

bool GatedMatMulByStream(const GatedMatMulParams& params, const void* x, const DeviceMatrix& gate,
                         const DeviceMatrix& up, Stream& stream) {
  return Multiply(GatedColumns{params}, x, gate, {gate.data, up.data}, stream);
}

}  // namespace treeline::cuda
