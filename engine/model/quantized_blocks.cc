#include "engine/model/quantized_blocks.h"

#include <cstdint>
#include <cstring>

#include "engine/base/status.h"
#include "kernels/float_types.h"

namespace treeline {
namespace {

// The blocks of small types hold 32 weights, those of K types 256. Structs have the layout of the
// file: bytes and fp16 bit patterns, without padding.
constexpr int kSmall = 32;
constexpr int kSuper = 256;

// w = d * (q - 8). The low nibbles are weights 0..15, the high ones 16..31.
struct Q40 {
  static constexpr int kWeights = kSmall;
  uint16_t d;
  uint8_t q[kSmall / 2];
  void Dequantize(float* out) const {
    const float scale = F16ToFloat(d);
    for (int i = 0; i < kSmall / 2; ++i) {
      out[i] = scale * static_cast<float>((q[i] & 15) - 8);
      out[i + kSmall / 2] = scale * static_cast<float>((q[i] >> 4) - 8);
    }
  }
};

// w = d * q + m.
struct Q41 {
  static constexpr int kWeights = kSmall;
  uint16_t d, m;
  uint8_t q[kSmall / 2];
  void Dequantize(float* out) const {
    const float scale = F16ToFloat(d), minimum = F16ToFloat(m);
    for (int i = 0; i < kSmall / 2; ++i) {
      out[i] = scale * static_cast<float>(q[i] & 15) + minimum;
      out[i + kSmall / 2] = scale * static_cast<float>(q[i] >> 4) + minimum;
    }
  }
};

// The fifth bit of weight i is bit i of a 32-bit number.
int FifthBit(const uint8_t (&high)[4], int i) { return (high[i / 8] >> (i % 8) & 1) << 4; }

// w = d * (q - 16).
struct Q50 {
  static constexpr int kWeights = kSmall;
  uint16_t d;
  uint8_t high[4];
  uint8_t q[kSmall / 2];
  void Dequantize(float* out) const {
    const float scale = F16ToFloat(d);
    for (int i = 0; i < kSmall / 2; ++i) {
      const int j = i + kSmall / 2;
      out[i] = scale * static_cast<float>(((q[i] & 15) | FifthBit(high, i)) - 16);
      out[j] = scale * static_cast<float>(((q[i] >> 4) | FifthBit(high, j)) - 16);
    }
  }
};

// w = d * q + m.
struct Q51 {
  static constexpr int kWeights = kSmall;
  uint16_t d, m;
  uint8_t high[4];
  uint8_t q[kSmall / 2];
  void Dequantize(float* out) const {
    const float scale = F16ToFloat(d), minimum = F16ToFloat(m);
    for (int i = 0; i < kSmall / 2; ++i) {
      const int j = i + kSmall / 2;
      out[i] = scale * static_cast<float>((q[i] & 15) | FifthBit(high, i)) + minimum;
      out[j] = scale * static_cast<float>((q[i] >> 4) | FifthBit(high, j)) + minimum;
    }
  }
};

// w = d * q.
struct Q80 {
  static constexpr int kWeights = kSmall;
  uint16_t d;
  int8_t q[kSmall];
  void Dequantize(float* out) const {
    const float scale = F16ToFloat(d);
    for (int i = 0; i < kSmall; ++i) out[i] = scale * static_cast<float>(q[i]);
  }
};

// Of K types, 256 weights are 16 groups of 16 or 8 of 32, each with an integer scale (and
// minimum) of its own in units of d (and dmin). Two bits of weight i lie in byte i mod 32 of one
// of two runs of 32 bytes, one run for each half.
int TwoBits(const uint8_t (&q)[kSuper / 4], int i) {
  return q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

// w = d * scale * q - dmin * minimum, in groups of 16.
struct Q2K {
  static constexpr int kWeights = kSuper;
  uint8_t scales[kSuper / 16];  // Low nibble: scale; high: minimum.
  uint8_t q[kSuper / 4];
  uint16_t d, dmin;
  void Dequantize(float* out) const {
    const float unit = F16ToFloat(d), minimum_unit = F16ToFloat(dmin);
    for (int i = 0; i < kSuper; ++i) {
      const uint8_t packed = scales[i / 16];
      const float scale = unit * static_cast<float>(packed & 15);
      const float minimum = minimum_unit * static_cast<float>(packed >> 4);
      out[i] = scale * static_cast<float>(TwoBits(q, i)) - minimum;
    }
  }
};

// w = d * (scale - 32) * (q - 4), in groups of 16; q's third bit lies apart.
struct Q3K {
  static constexpr int kWeights = kSuper;
  uint8_t high[kSuper / 8];  // Bit b of byte i: weight 32 b + i.
  uint8_t q[kSuper / 4];
  uint8_t scales[12];  // Low nibbles in 8 bytes, then the two high bits of each in 4.
  uint16_t d;
  int Scale(int group) const {
    const int low = scales[group % 8] >> (group / 8 * 4) & 15;
    const int top = scales[8 + group % 4] >> (group / 4 * 2) & 3;
    return (low | top << 4) - 32;
  }
  void Dequantize(float* out) const {
    const float unit = F16ToFloat(d);
    for (int i = 0; i < kSuper; ++i) {
      const int third = high[i % 32] >> (i / 32) & 1;
      const float scale = unit * static_cast<float>(Scale(i / 16));
      out[i] = scale * static_cast<float>(TwoBits(q, i) - (third == 1 ? 0 : 4));
    }
  }
};

// Eight scales and eight minima of six bits in twelve bytes: those of groups 0..3 in the low six
// bits of bytes 0..3 and 4..7, those of 4..7 in nibbles of bytes 8..11 below the two bits that
// the first eight bytes have left.
int SixBitScale(const uint8_t (&packed)[12], int group) {
  if (group < 4) return packed[group] & 63;
  return (packed[group + 4] & 15) | packed[group - 4] >> 6 << 4;
}
int SixBitMinimum(const uint8_t (&packed)[12], int group) {
  if (group < 4) return packed[group + 4] & 63;
  return packed[group + 4] >> 4 | packed[group] >> 6 << 4;
}

// Four bits of weight i: of each run of 32 bytes, the low nibbles are 32 weights, the high ones
// the next 32.
int FourBits(const uint8_t (&q)[kSuper / 2], int i) {
  return q[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
}

// w = d * scale * q - dmin * minimum, in groups of 32.
struct Q4K {
  static constexpr int kWeights = kSuper;
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t q[kSuper / 2];
  void Dequantize(float* out) const {
    const float unit = F16ToFloat(d), minimum_unit = F16ToFloat(dmin);
    for (int i = 0; i < kSuper; ++i) {
      const float scale = unit * static_cast<float>(SixBitScale(scales, i / 32));
      const float minimum = minimum_unit * static_cast<float>(SixBitMinimum(scales, i / 32));
      out[i] = scale * static_cast<float>(FourBits(q, i)) - minimum;
    }
  }
};

// As Q4K, with a fifth bit: bit b of byte i is that of weight 32 b + i.
struct Q5K {
  static constexpr int kWeights = kSuper;
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t high[kSuper / 8];
  uint8_t q[kSuper / 2];
  void Dequantize(float* out) const {
    const float unit = F16ToFloat(d), minimum_unit = F16ToFloat(dmin);
    for (int i = 0; i < kSuper; ++i) {
      const int fifth = (high[i % 32] >> (i / 32) & 1) << 4;
      const float scale = unit * static_cast<float>(SixBitScale(scales, i / 32));
      const float minimum = minimum_unit * static_cast<float>(SixBitMinimum(scales, i / 32));
      out[i] = scale * static_cast<float>(FourBits(q, i) | fifth) - minimum;
    }
  }
};

// w = d * scale * (q - 32), in groups of 16. Of each half of 128 weights, 64 bytes hold the low
// nibbles (64 weights in low halves of the bytes, the next 64 in high ones) and 32 bytes the two
// high bits, as in TwoBits.
struct Q6K {
  static constexpr int kWeights = kSuper;
  uint8_t low[kSuper / 2];
  uint8_t high[kSuper / 4];
  int8_t scales[kSuper / 16];
  uint16_t d;
  void Dequantize(float* out) const {
    const float unit = F16ToFloat(d);
    for (int i = 0; i < kSuper; ++i) {
      const int nibble = low[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
      const int group = i / 16;
      const float scale = unit * static_cast<float>(scales[group]);
      out[i] = scale * static_cast<float>((nibble | TwoBits(high, i) << 4) - 32);
    }
  }
};

static_assert(sizeof(Q40) == 18 && sizeof(Q41) == 20 && sizeof(Q50) == 22 && sizeof(Q51) == 24 &&
              sizeof(Q80) == 34);
static_assert(sizeof(Q2K) == 84 && sizeof(Q3K) == 110 && sizeof(Q4K) == 144 && sizeof(Q5K) == 176 &&
              sizeof(Q6K) == 210);

// Calls visit with a block of the type.
template <class Visitor>
auto VisitBlock(TensorType type, const Visitor& visit) {
  switch (type) {
    case TensorType::kQ40:
      return visit(Q40());
    case TensorType::kQ41:
      return visit(Q41());
    case TensorType::kQ50:
      return visit(Q50());
    case TensorType::kQ51:
      return visit(Q51());
    case TensorType::kQ80:
      return visit(Q80());
    case TensorType::kQ2K:
      return visit(Q2K());
    case TensorType::kQ3K:
      return visit(Q3K());
    case TensorType::kQ4K:
      return visit(Q4K());
    case TensorType::kQ5K:
      return visit(Q5K());
    default:
      TREELINE_CHECK(type == TensorType::kQ6K, "not a quantised type");
      return visit(Q6K());
  }
}

}  // namespace

BlockShape BlockShapeOf(TensorType type) {
  return VisitBlock(type, []<class Block>(Block) {
    return BlockShape{Block::kWeights, static_cast<int>(sizeof(Block))};
  });
}

void DequantizeBlocks(TensorType type, const std::byte* blocks, std::span<float> out) {
  VisitBlock(type, [&]<class Block>(Block block) {
    TREELINE_CHECK(out.size() % Block::kWeights == 0);
    for (size_t i = 0; i < out.size(); i += Block::kWeights) {
      std::memcpy(&block, blocks, sizeof(block));  // Blocks may lie at any byte.
      block.Dequantize(&out[i]);
      blocks += sizeof(block);
    }
  });
}

}  // namespace treeline
