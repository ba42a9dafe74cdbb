// Copies of many pieces of device memory, such as the parts of a sequence's state, by one kernel:
// the driver's copies, one for each, would take the host as long as a step or two of few sequences.
#ifndef TREELINE_KERNELS_CUDA_COPY_PIECES_H_
#define TREELINE_KERNELS_CUDA_COPY_PIECES_H_

#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/params.h"

namespace treeline::cuda {

// None of them overlaps another. `pieces` is host memory, and may change when the call returns.
void CopyPieces(std::span<const CopyParams> pieces, Stream& stream);

}  // namespace treeline::cuda

#endif  // TREELINE_KERNELS_CUDA_COPY_PIECES_H_
