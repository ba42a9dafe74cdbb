// Compiled for AMX (matrix tiles of 16 rows of 64 bytes): uses no inline function that other files
// use. A tile of x is 16 rows of 16 words, a tile of weights 16 words of k of 16 columns, as they
// lie in a panel; a sum of 16 x 16 goes through k tile by tile, so each output is one chain.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/matmul_kernel.h"

namespace treeline::cpu {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64, kColumns = 16;
constexpr int64_t kPanelRowBytes = kPanelColumns * 4;

// The operand of LDTILECFG.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Registers: 0 and 1 take `first` and `second` rows of x and `words` words of k, 2 and 3 those
// words of the panel's halves, 4 to 7 their sums: rows of 0 by both halves, then rows of 1.
void Configure(int first, int second, int words) {
  TileConfig config;
  const int rows[8] = {first, second, words, words, first, first, second, second};
  for (int tile = 0; tile < 8; ++tile) {
    // A register without rows may not be named at all; give it one.
    config.rows[tile] = static_cast<uint8_t>(rows[tile] > 0 ? rows[tile] : 1);
    config.row_bytes[tile] = static_cast<uint16_t>(tile < 2 ? words * 4 : kTileBytes);
  }
  _tile_loadconfig(&config);
}

// Weights of the last, incomplete 16 words of k, padded with zeros.
struct alignas(64) LastWords {
  char bytes[kTileRows * kPanelRowBytes];
};

// The sums of a block of rows, as the tiles hold them.
struct alignas(64) Sums {
  int32_t words[2 * kTileRows][kPanelColumns];
};

// Multiplies a step of k: words of weights and of x; `two_tiles` where the block has more than 16
// rows. Tile intrinsics take register numbers as literals.
template <class Dot>
void MultiplyWords(const char* weights, const char* x, int64_t x_stride, bool two_tiles) {
  _tile_loadd(2, weights, kPanelRowBytes);
  _tile_loadd(3, weights + kTileBytes, kPanelRowBytes);
  _tile_loadd(0, x, x_stride);
  Dot::FirstRows();
  if (two_tiles) {
    _tile_loadd(1, x + kTileRows * x_stride, x_stride);
    Dot::SecondRows();
  }
}

void ClearTiles() {
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

void StoreTiles(Sums& sums, bool two_tiles) {
  _tile_stored(4, sums.words, kPanelRowBytes);
  _tile_stored(5, sums.words[0] + kColumns, kPanelRowBytes);
  if (two_tiles) {
    _tile_stored(6, sums.words[kTileRows], kPanelRowBytes);
    _tile_stored(7, sums.words[kTileRows] + kColumns, kPanelRowBytes);
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

// Calls function(first_row, rows, x of the first row) for blocks of up to 32 rows, the registers
// configured for steps of kWords words.
template <int kWords, class Function>
void ForEachBlock(const PanelProduct& p, const Function& function) {
  for (int32_t row = 0; row < p.rows; row += 2 * kTileRows) {
    const int32_t rows = p.rows - row < 2 * kTileRows ? p.rows - row : 2 * kTileRows;
    const int first = rows < kTileRows ? rows : kTileRows;
    Configure(first, rows - first, kWords);
    function(row, rows, static_cast<const char*>(p.x) + row * p.x_stride);
  }
  _tile_release();
}

void RunBf16(const PanelProduct& p) {
  const int32_t words = (p.k + 1) / 2;
  ForEachBlock<kTileRows>(p, [&p, words](int32_t row, int32_t rows, const char* x) {
    const bool two_tiles = rows > kTileRows;
    ClearTiles();
    for (int32_t word = 0; word < words; word += kTileRows) {
      const char* weights = static_cast<const char*>(p.panel) + word * kPanelRowBytes;
      LastWords last;
      if (words - word < kTileRows) {
        __builtin_memset(&last, 0, sizeof(last));
        __builtin_memcpy(&last, weights, (words - word) * kPanelRowBytes);
        weights = last.bytes;
      }
      MultiplyWords<Bf16Dot>(weights, x + word * 4, p.x_stride, two_tiles);
    }
    Sums sums;
    StoreTiles(sums, two_tiles);
    for (int32_t r = 0; r < rows; ++r) {
      float* out = p.y + (row + r) * p.y_stride;
      float values[kPanelColumns];
      __builtin_memcpy(values, sums.words[r], sizeof(values));
      for (int32_t c = 0; c < p.columns; ++c) out[c] = (p.accumulate ? out[c] : 0) + values[c];
    }
  });
}

// Each group of k goes through the tiles by itself; its sums are scaled and added up outside them.
void RunInt8(const PanelProduct& p) {
  const int32_t groups = (p.k + kQuantGroup - 1) / kQuantGroup;
  ForEachBlock<kInt8GroupRows>(p, [&p, groups](int32_t row, int32_t rows, const char* x) {
    const bool two_tiles = rows > kTileRows;
    const char* panel = static_cast<const char*>(p.panel);
    alignas(64) float totals[2 * kTileRows][kPanelColumns] = {};
    for (int32_t group = 0; group < groups; ++group, panel += kInt8GroupBytes, x += kQuantGroup) {
      ClearTiles();
      MultiplyWords<Int8Dot>(panel, x, p.x_stride, two_tiles);
      Sums sums;
      StoreTiles(sums, two_tiles);
      const __m256i* scales =
          reinterpret_cast<const __m256i*>(panel + kInt8GroupRows * kPanelRowBytes);
      for (int half = 0; half < 2; ++half) {
        const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(scales + half));
        for (int32_t r = 0; r < rows; ++r) {
          const int64_t index = group * p.x_group_stride + row + r;
          const __m512i zero = _mm512_set1_epi32(p.x_zeros[index]);
          const __m512i sum = _mm512_load_si512(sums.words[r] + half * kColumns);
          float* total = totals[r] + half * kColumns;
          _mm512_store_ps(total,
                          _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(sum, zero)),
                                          _mm512_mul_ps(scale, _mm512_set1_ps(p.x_scales[index])),
                                          _mm512_load_ps(total)));
        }
      }
    }
    for (int32_t r = 0; r < rows; ++r) {
      float* out = p.y + (row + r) * p.y_stride;
      for (int32_t c = 0; c < p.columns; ++c) out[c] = (p.accumulate ? out[c] : 0) + totals[r][c];
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

extern const MatMulKernel kBf16AmxKernel = {"bf16-amx",
                                            ActivationType::kBF16,
                                            CpuLevel::kAmx,
                                            SupportsBf16,
                                            {nullptr, RunBf16, nullptr, nullptr}};
extern const MatMulKernel kInt8AmxKernel = {"int8-amx",
                                            ActivationType::kInt8,
                                            CpuLevel::kAmx,
                                            SupportsInt8,
                                            {nullptr, nullptr, RunInt8, nullptr}};

}  // namespace treeline::cpu
