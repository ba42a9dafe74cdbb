// Compiled for AMX (matrix tiles of 16 rows of 64 bytes): uses no inline function that other files
// use. A tile of x is 16 rows of 16 words, a tile of weights 16 words of k of 16 columns, as they
// lie in a panel; a sum of 16 x 16 goes through k tile by tile, so each output is one chain.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/matmul_kernel.h"

namespace treeline::cpu {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64, kColumns = 16, kHalves = kPanelColumns / kColumns;
constexpr int64_t kPanelRowBytes = kPanelColumns * 4;
// Tile registers: two of x, two of weights, four of sums.
constexpr int kX = 0, kWeights = 2, kSums = 4;

// The operand of LDTILECFG.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// For a block of up to 32 rows of x: tiles 0 and 1 hold `first` and `second` of them.
void Configure(int first, int second) {
  TileConfig config;
  const int rows[8] = {first, second, 16, 16, first, first, second, second};
  for (int tile = 0; tile < 8; ++tile) {
    // A register without rows may not be named at all; give it one.
    config.rows[tile] = static_cast<uint8_t>(rows[tile] > 0 ? rows[tile] : 1);
    config.row_bytes[tile] = kTileBytes;
  }
  _tile_loadconfig(&config);
}

// Weights of the last, incomplete 16 words of k, padded with zeros.
struct alignas(64) LastWords {
  char bytes[kTileRows * kPanelRowBytes];
};

// Tile intrinsics take register numbers as literals.
template <class Dot>
void Multiply(const PanelProduct& p, int32_t words, const char* x, bool two_tiles) {
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  const char* second = x + kTileRows * p.x_stride;
  const char* panel = static_cast<const char*>(p.panel);
  LastWords last;
  for (int32_t word = 0; word < words; word += kTileRows) {
    const char* weights = panel + word * kPanelRowBytes;
    if (words - word < kTileRows) {
      __builtin_memset(&last, 0, sizeof(last));
      __builtin_memcpy(&last, weights, (words - word) * kPanelRowBytes);
      weights = last.bytes;
    }
    _tile_loadd(2, weights, kPanelRowBytes);
    _tile_loadd(3, weights + kTileBytes, kPanelRowBytes);
    _tile_loadd(0, x + word * 4, p.x_stride);
    Dot::FirstRows();
    if (two_tiles) {
      _tile_loadd(1, second + word * 4, p.x_stride);
      Dot::SecondRows();
    }
  }
}

struct Bf16Dot {
  static inline void FirstRows() {
    _tile_dpbf16ps(4, 0, 2);
    _tile_dpbf16ps(5, 0, 3);
  }
  static inline void SecondRows() {
    _tile_dpbf16ps(6, 1, 2);
    _tile_dpbf16ps(7, 1, 3);
  }
};

// Signed activations, unsigned weights.
struct Int8Dot {
  static inline void FirstRows() {
    _tile_dpbsud(4, 0, 2);
    _tile_dpbsud(5, 0, 3);
  }
  static inline void SecondRows() {
    _tile_dpbsud(6, 1, 2);
    _tile_dpbsud(7, 1, 3);
  }
};

struct alignas(64) Sums {
  int32_t words[2 * kTileRows][kPanelColumns];
};

// Calls store(first_row, rows, sums) for blocks of rows.
template <class Dot, class Store>
void ForEachBlock(const PanelProduct& p, int32_t words, const Store& store) {
  Sums sums;
  for (int32_t row = 0; row < p.rows; row += 2 * kTileRows) {
    const int32_t rows = p.rows - row < 2 * kTileRows ? p.rows - row : 2 * kTileRows;
    const int first = rows < kTileRows ? rows : kTileRows, second = rows - first;
    Configure(first, second);
    Multiply<Dot>(p, words, static_cast<const char*>(p.x) + row * p.x_stride, second > 0);
    _tile_stored(4, sums.words, kPanelRowBytes);
    _tile_stored(5, sums.words[0] + kColumns, kPanelRowBytes);
    if (second > 0) {
      _tile_stored(6, sums.words[kTileRows], kPanelRowBytes);
      _tile_stored(7, sums.words[kTileRows] + kColumns, kPanelRowBytes);
    }
    store(row, rows, sums);
  }
  _tile_release();
}

void RunBf16(const PanelProduct& p) {
  ForEachBlock<Bf16Dot>(p, (p.k + 1) / 2, [&p](int32_t row, int32_t rows, const Sums& sums) {
    for (int32_t r = 0; r < rows; ++r) {
      float* out = p.y + (row + r) * p.y_stride;
      float values[kPanelColumns];
      __builtin_memcpy(values, sums.words[r], sizeof(values));
      for (int32_t c = 0; c < p.columns; ++c) out[c] = (p.accumulate ? out[c] : 0) + values[c];
    }
  });
}

void RunInt8(const PanelProduct& p) {
  const int32_t words = (p.k + 3) / 4;
  const float* scales =
      reinterpret_cast<const float*>(static_cast<const char*>(p.panel) + words * kPanelRowBytes);
  ForEachBlock<Int8Dot>(p, words, [&p, scales](int32_t row, int32_t rows, const Sums& sums) {
    for (int32_t r = 0; r < rows; ++r) {
      float* out = p.y + (row + r) * p.y_stride;
      const int32_t zero = kInt8ZeroPoint * p.x_sums[row + r];
      for (int32_t c = 0; c < p.columns; ++c) {
        const float scale = p.x_scales[row + r] * scales[c];
        const float value = static_cast<float>(sums.words[r][c] - zero) * scale;
        out[c] = p.accumulate ? out[c] + value : value;
      }
    }
  });
}

// Linux hands out the tiles' register space on request only.
bool MayUseTiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(2)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// CPUID leaf 7, EDX: bit 22 AMX-BF16, 24 AMX-TILE, 25 AMX-INT8.
bool HasFeature(int bit) {
  uint32_t eax, ebx, ecx, edx;
  asm volatile("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(7), "c"(0));
  return (edx >> 24 & 1) != 0 && (edx >> bit & 1) != 0;
}

bool SupportsBf16() { return HasFeature(22) && MayUseTiles(); }
bool SupportsInt8() { return HasFeature(25) && MayUseTiles(); }

}  // namespace

extern const MatMulKernel kBf16AmxKernel = {
    "bf16-amx", ActivationType::kBF16, SupportsBf16, {nullptr, RunBf16, nullptr, nullptr}};
extern const MatMulKernel kInt8AmxKernel = {
    "int8-amx", ActivationType::kInt8, SupportsInt8, {nullptr, nullptr, RunInt8, nullptr}};

}  // namespace treeline::cpu
