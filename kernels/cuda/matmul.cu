#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/gate.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/weight_stream.h"

namespace treeline::cuda {
namespace {

constexpr int kThreads = 256;

// -- The parts between products.

// A thread takes kVector elements.
__global__ void ToBf16Kernel(const float* x, __nv_bfloat16* y, int64_t count) {
  WaitForEarlierKernels();
  const int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector;
  if (first + kVector <= count) {
    float values[kVector];
    LoadVector(x + first, values);
    StoreRounded(y + first, values);
    return;
  }
  for (int64_t i = first; i < count; ++i) y[i] = FromFloat<__nv_bfloat16>(x[i]);
}

// y = Gated(y, up).
__global__ void GateKernel(GatedMatMulParams params, const float* up, int n) {
  WaitForEarlierKernels();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= int64_t{params.rows} * n) return;
  params.y[i] = Gated(params, params.y[i], up[i], static_cast<int>(i % n));
}

template <typename T>
__global__ void EmbedKernel(const T* table, const int32_t* token_ids, float* y, int k) {
  WaitForEarlierKernels();
  const T* row = table + int64_t{token_ids[blockIdx.x]} * k;
  for (int i = threadIdx.x; i < k; i += kThreads) {
    y[int64_t{blockIdx.x} * k + i] = ToFloat(row[i]);
  }
}

dim3 GridFor(int64_t elements) { return dim3(static_cast<unsigned>(CeilDiv(elements, kThreads))); }

// -- cuBLASLt.

// The functions of the library that are used here.
struct CublasLt {
  decltype(&cublasLtCreate) Create;
  decltype(&cublasLtDestroy) Destroy;
  decltype(&cublasLtMatmul) Matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) AlgoGetHeuristic;
  decltype(&cublasLtMatmulDescCreate) DescCreate;
  decltype(&cublasLtMatmulDescDestroy) DescDestroy;
  decltype(&cublasLtMatmulDescSetAttribute) DescSetAttribute;
  decltype(&cublasLtMatrixLayoutCreate) LayoutCreate;
  decltype(&cublasLtMatrixLayoutDestroy) LayoutDestroy;
  decltype(&cublasLtMatmulPreferenceCreate) PreferenceCreate;
  decltype(&cublasLtMatmulPreferenceDestroy) PreferenceDestroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) PreferenceSetAttribute;
  decltype(&cublasLtGetStatusString) GetStatusString;
};

template <typename Function>
bool Find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

// Stays loaded. False, and `error` says why, where it is missing.
bool LoadCublasLt(CublasLt& lt, std::string& error) {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* library = nullptr;
  for (const std::string& path : {name, "/usr/local/cuda/lib64/" + name}) {
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
  }
  if (library == nullptr) {
    error =
        "cannot load " + name + ": install CUDA's cuBLAS, or name its folder in LD_LIBRARY_PATH";
    return false;
  }
  const bool complete =
      Find(library, "cublasLtCreate", lt.Create) && Find(library, "cublasLtDestroy", lt.Destroy) &&
      Find(library, "cublasLtMatmul", lt.Matmul) &&
      Find(library, "cublasLtMatmulAlgoGetHeuristic", lt.AlgoGetHeuristic) &&
      Find(library, "cublasLtMatmulDescCreate", lt.DescCreate) &&
      Find(library, "cublasLtMatmulDescDestroy", lt.DescDestroy) &&
      Find(library, "cublasLtMatmulDescSetAttribute", lt.DescSetAttribute) &&
      Find(library, "cublasLtMatrixLayoutCreate", lt.LayoutCreate) &&
      Find(library, "cublasLtMatrixLayoutDestroy", lt.LayoutDestroy) &&
      Find(library, "cublasLtMatmulPreferenceCreate", lt.PreferenceCreate) &&
      Find(library, "cublasLtMatmulPreferenceDestroy", lt.PreferenceDestroy) &&
      Find(library, "cublasLtMatmulPreferenceSetAttribute", lt.PreferenceSetAttribute) &&
      Find(library, "cublasLtGetStatusString", lt.GetStatusString);
  if (!complete) error = name + " lacks a function that is needed; another release of it may serve";
  return complete;
}

// A product of one shape, and how cuBLASLt computes it.
struct Product {
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

class CublasProducts : public DenseProducts {
 public:
  CublasProducts(Stream& stream, const CublasLt& lt)
      : stream_(stream), lt_(lt), prepared_(stream), up_(stream), workspace_(stream) {}

  ~CublasProducts() override {
    for (auto& [shape, product] : products_) {
      lt_.LayoutDestroy(product.w);
      lt_.LayoutDestroy(product.x);
      lt_.LayoutDestroy(product.y);
      lt_.DescDestroy(product.description);
    }
    if (handle_ != nullptr) lt_.Destroy(handle_);
  }

  bool Open(std::string& error) {
    const cublasStatus_t status = lt_.Create(&handle_);
    if (status != CUBLAS_STATUS_SUCCESS) {
      error = std::string("cublasLtCreate failed: ") + lt_.GetStatusString(status);
    }
    return status == CUBLAS_STATUS_SUCCESS;
  }

  void MatMul(const MatMulParams& params, const DeviceMatrix& matrix) override {
    if (params.rows == 0 || MatMulOfFewRows(params, matrix, stream_)) return;
    const void* x = Prepared(params, matrix);
    if (!MatMulByStream(params, x, matrix, stream_)) Multiply(params, x, matrix);
  }

  void GatedMatMul(const GatedMatMulParams& params, const DeviceMatrix& gate,
                   const DeviceMatrix& up) override {
    if (params.rows == 0 || GatedMatMulOfFewRows(params, gate, up, stream_)) return;
    const void* x = Prepared(params, gate);
    if (GatedMatMulByStream(params, x, gate, up, stream_)) return;
    const int64_t size = int64_t{params.rows} * gate.n;
    float* up_product = up_.Floats(size);
    Multiply({params.x, params.y, params.rows, false}, x, gate);
    Multiply({params.x, up_product, params.rows, false}, x, up);
    Launch(stream_, "Gate", GateKernel, GridFor(size), kThreads, 0, params, up_product, gate.n);
  }

 private:
  // type, n, k, rows, accumulate.
  using Shape = std::tuple<WeightType, int32_t, int32_t, int32_t, bool>;

  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  // The activations as the product takes them: normalised, and of the weights' type.
  template <typename Params>
  const void* Prepared(const Params& params, const DeviceMatrix& matrix) {
    const bool rounds = matrix.type == WeightType::kBF16;
    const bool normalises = params.norm.weight != nullptr;
    if (!rounds && !normalises) return params.x;
    const int64_t size = int64_t{params.rows} * matrix.k;
    void* prepared = prepared_.Resize(size * (rounds ? sizeof(__nv_bfloat16) : sizeof(float)));
    const RmsNormParams norm{params.x,    params.norm.weight, static_cast<float*>(prepared),
                             params.rows, matrix.k,           params.norm.eps};
    if (!rounds) {
      RmsNorm(norm, stream_);
    } else if (normalises) {
      RmsNormToBf16(norm, prepared, stream_);
    } else {
      Launch(stream_, "ToBf16", ToBf16Kernel, GridFor(CeilDiv(size, kVector)), kThreads, 0,
             params.x, static_cast<__nv_bfloat16*>(prepared), size);
    }
    return prepared;
  }

  void Multiply(const MatMulParams& params, const void* x, const DeviceMatrix& matrix) {
    const Product* product =
        Find({matrix.type, matrix.n, matrix.k, params.rows, params.accumulate});
    void* workspace = workspace_.Resize(kWorkspaceBytes);
    if (product == nullptr || !stream_.ok()) return;
    const float alpha = 1, beta = params.accumulate ? 1 : 0;
    Succeeded("cublasLtMatmul",
              lt_.Matmul(handle_, product->description, &alpha, matrix.data, product->w, x,
                         product->x, &beta, params.y, product->y, params.y, product->y,
                         &product->algorithm, workspace, kWorkspaceBytes, stream_.handle()));
  }

  // Null after a failure.
  const Product* Find(const Shape& shape) {
    if (!stream_.ok()) return nullptr;
    const auto found = products_.find(shape);
    if (found != products_.end()) return &found->second;
    Product& product = products_[shape];
    if (Describe(shape, product)) return &product;
    products_.erase(shape);
    return nullptr;
  }

  // Row-major [rows, n] is column-major [n, rows]: y^T = W x^T with W stored transposed.
  bool Describe(const Shape& shape, Product& product) {
    const auto [type, n, k, rows, accumulate] = shape;
    const cudaDataType_t input = type == WeightType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint32_t alignment = 16;
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    bool good =
        Succeeded("cublasLtMatmulDescCreate",
                  lt_.DescCreate(&product.description, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
        Succeeded("cublasLtMatmulDescSetAttribute",
                  lt_.DescSetAttribute(product.description, CUBLASLT_MATMUL_DESC_TRANSA,
                                       &transposed, sizeof transposed)) &&
        Succeeded("cublasLtMatrixLayoutCreate", lt_.LayoutCreate(&product.w, input, k, n, k)) &&
        Succeeded("cublasLtMatrixLayoutCreate", lt_.LayoutCreate(&product.x, input, k, rows, k)) &&
        Succeeded("cublasLtMatrixLayoutCreate",
                  lt_.LayoutCreate(&product.y, CUDA_R_32F, n, rows, n)) &&
        Succeeded("cublasLtMatmulPreferenceCreate", lt_.PreferenceCreate(&preference)) &&
        Succeeded("cublasLtMatmulPreferenceSetAttribute",
                  lt_.PreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &kWorkspaceBytes, sizeof kWorkspaceBytes));
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      good = good && Succeeded("cublasLtMatmulPreferenceSetAttribute",
                               lt_.PreferenceSetAttribute(preference, attribute, &alignment,
                                                          sizeof alignment));
    }
    good = good &&
           Succeeded("cublasLtMatmulAlgoGetHeuristic",
                     lt_.AlgoGetHeuristic(handle_, product.description, product.w, product.x,
                                          product.y, product.y, preference, 1, &result, &found));
    if (preference != nullptr) lt_.PreferenceDestroy(preference);
    if (good && found == 0) {
      stream_.Fail("cuBLASLt has no product of [" + std::to_string(rows) + ", " +
                   std::to_string(k) + "] and [" + std::to_string(n) + ", " + std::to_string(k) +
                   "]^T");
      return false;
    }
    product.algorithm = result.algo;
    return good;
  }

  bool Succeeded(const char* call, cublasStatus_t status) {
    if (status == CUBLAS_STATUS_SUCCESS) return true;
    stream_.Fail(std::string(call) + " failed: " + lt_.GetStatusString(status));
    return false;
  }

  Stream& stream_;
  const CublasLt lt_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Shape, Product> products_;
  Scratch prepared_, up_, workspace_;
};

}  // namespace

std::unique_ptr<DenseProducts> DenseProducts::Create(Stream& stream, std::string& error) {
  CublasLt lt{};
  if (!LoadCublasLt(lt, error)) return nullptr;
  auto products = std::make_unique<CublasProducts>(stream, lt);
  if (!products->Open(error)) return nullptr;
  return products;
}

void Embed(const DeviceMatrix& table, std::span<const int32_t> token_ids, float* y,
           Stream& stream) {
  const std::byte* uploaded = stream.Upload(token_ids.size_bytes(), [&](std::byte* to) {
    std::copy_n(reinterpret_cast<const std::byte*>(token_ids.data()), token_ids.size_bytes(), to);
  });
  const auto* ids = reinterpret_cast<const int32_t*>(uploaded);
  const dim3 grid(static_cast<unsigned>(token_ids.size()));
  if (table.type == WeightType::kF32) {
    Launch(stream, "Embed", EmbedKernel<float>, grid, kThreads, 0,
           static_cast<const float*>(table.data), ids, y, table.k);
  } else {
    Launch(stream, "Embed", EmbedKernel<__nv_bfloat16>, grid, kThreads, 0,
           static_cast<const __nv_bfloat16*>(table.data), ids, y, table.k);
  }
}

}  // namespace treeline::cuda
