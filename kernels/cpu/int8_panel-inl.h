// Products of int8 activations with int8 and int4 panels, for any instruction set: `Isa`
// gives the vectors and the dot product of bytes. Included inside a namespace of one
// instruction set, so that no code compiled for one set is used by another.
//
// Summed over the groups of k (kernels/quantization.h), y is
//
//   int8:  scale x_scale (sum of codes_x (codes_w + 128), less 128 sum of codes_x)
//
//   int4:  scale x_scale (sum of codes_x codes_w) + minimum x_scale (sum of codes_x)
//
// An Isa has Ints and Floats, vectors of kLanes, of which kVectors are held of a panel at once;
// kMaxRows rows of one such set of sums fit the registers. Dot takes Weights and Activations, as
// Unpack and Spread make them.

template <class Isa>
struct Int8Panel {
  using Ints = typename Isa::Ints;
  using Floats = typename Isa::Floats;
  static constexpr int kLanes = Isa::kLanes, kVectors = Isa::kVectors;
  static constexpr int kColumns = kLanes * kVectors;
  static_assert(kPanelColumns % kColumns == 0);

  static const int8_t* Row(const PanelProduct& p, int32_t row) {
    return static_cast<const int8_t*>(p.x) + row * p.x_stride;
  }

  // One word row of weights times one word of every row of x.
  template <int kRows>
  static inline KERNEL_INLINE void Accumulate(const Ints (&words)[kVectors], const int8_t* x,
                                              int64_t x_stride, Ints (&sums)[kRows][kVectors]) {
    typename Isa::Weights weights[kVectors];
    Unroll<kVectors>([&](auto c) KERNEL_INLINE { weights[c] = Isa::Unpack(words[c]); });
    Unroll<kRows>([&](auto r) KERNEL_INLINE {
      const typename Isa::Activations word = Isa::Spread(x + r * x_stride);
      Unroll<kVectors>([&](auto c)
                           KERNEL_INLINE { sums[r][c] = Isa::Dot(sums[r][c], weights[c], word); });
    });
  }

  template <int kRows>
  static inline KERNEL_INLINE void StoreTile(const PanelProduct& p, int32_t row, int32_t column,
                                             const Floats (&totals)[kRows][kVectors]) {
    Unroll<kRows>([&](auto r) KERNEL_INLINE {
      Unroll<kVectors>([&](auto c)
                           KERNEL_INLINE { Store(p, row + r, column + c * kLanes, totals[r][c]); });
    });
  }

  template <int kRows>
  static inline KERNEL_INLINE void Clear(Floats (&totals)[kRows][kVectors]) {
    Unroll<kRows>([&](auto r) KERNEL_INLINE {
      Unroll<kVectors>([&](auto c) KERNEL_INLINE { totals[r][c] = Isa::SetFloat(0); });
    });
  }

  static inline void Store(const PanelProduct& p, int32_t row, int32_t column, Floats value) {
    float* out = p.y + row * p.y_stride + column;
    if (column + kLanes <= p.columns) {
      Isa::Store(p.accumulate ? Isa::Add(Isa::Load(out), value) : value, out);
      return;
    }
    alignas(64) float edge[kLanes];
    Isa::Store(value, edge);
    for (int32_t i = 0; i < p.columns - column; ++i) out[i] = (p.accumulate ? out[i] : 0) + edge[i];
  }

  // totals += the group's sums by the scales of weights and activations.
  template <int kRows>
  static inline KERNEL_INLINE void AddScaled(const Ints (&sums)[kRows][kVectors],
                                             const uint16_t* scales, const float* x_scales,
                                             Floats (&totals)[kRows][kVectors]) {
    Unroll<kVectors>([&](auto c) KERNEL_INLINE {
      const Floats scale = Isa::LoadHalves(scales + c * kLanes);
      Unroll<kRows>([&](auto r) KERNEL_INLINE {
        const Floats x_scale = Isa::SetFloat(x_scales[r]);
        totals[r][c] =
            Isa::MulAdd(Isa::ToFloat(sums[r][c]), Isa::Mul(scale, x_scale), totals[r][c]);
      });
    });
  }

  template <int kRows>
  static void Int8Tile(const PanelProduct& p, int32_t row, int32_t column) {
    const int32_t groups = (p.k + kQuantGroup - 1) / kQuantGroup;
    const char* panel = static_cast<const char*>(p.panel);
    const int8_t* x = Row(p, row);
    int64_t first = row;  // Of the group's scales and sums.
    Floats totals[kRows][kVectors];
    Clear<kRows>(totals);
    for (int32_t group = 0; group < groups; ++group, panel += kInt8GroupBytes, x += kQuantGroup) {
      Ints sums[kRows][kVectors];
      Unroll<kRows>([&](auto r) KERNEL_INLINE {
        const Ints zero = Isa::Set(p.x_zeros[first + r]);
        Unroll<kVectors>([&](auto c) KERNEL_INLINE { sums[r][c] = zero; });
      });
      for (int32_t i = 0; i < kInt8GroupRows; ++i) {
        Ints word[kVectors];
        Unroll<kVectors>([&](auto c) KERNEL_INLINE {
          word[c] = Isa::LoadInts(panel + (i * kPanelColumns + column + c * kLanes) * 4);
        });
        Accumulate<kRows>(word, x + 4 * i, p.x_stride, sums);
      }
      const uint16_t* scales =
          reinterpret_cast<const uint16_t*>(panel + kInt8GroupRows * kPanelColumns * 4) + column;
      AddScaled<kRows>(sums, scales, p.x_scales + first, totals);
      first += p.x_group_stride;
    }
    StoreTile<kRows>(p, row, column, totals);
  }

  template <int kRows>
  static void Int4Tile(const PanelProduct& p, int32_t row, int32_t column) {
    const int32_t groups = (p.k + kQuantGroup - 1) / kQuantGroup;
    const char* panel = static_cast<const char*>(p.panel);
    const int8_t* x = Row(p, row);
    int64_t first = row;  // Of the group's scales and sums.
    Floats totals[kRows][kVectors];
    Clear<kRows>(totals);
    for (int32_t group = 0; group < groups; ++group, panel += kInt4GroupBytes, x += kQuantGroup) {
      Ints sums[kRows][kVectors];
      Unroll<kRows>([&](auto r) KERNEL_INLINE {
        Unroll<kVectors>([&](auto c) KERNEL_INLINE { sums[r][c] = Isa::Set(0); });
      });
      for (int32_t i = 0; i < kInt4GroupRows; ++i) {
        Ints low[kVectors], high[kVectors];
        Unroll<kVectors>([&](auto c) KERNEL_INLINE {
          const Ints word = Isa::LoadInts(panel + (i * kPanelColumns + column + c * kLanes) * 4);
          low[c] = Isa::LowNibbles(word);
          high[c] = Isa::HighNibbles(word);
        });
        Accumulate<kRows>(low, x + 8 * i, p.x_stride, sums);
        Accumulate<kRows>(high, x + 8 * i + 4, p.x_stride, sums);
      }
      const uint16_t* scales =
          reinterpret_cast<const uint16_t*>(panel + kInt4GroupRows * kPanelColumns * 4) + column;
      Unroll<kVectors>([&](auto c) KERNEL_INLINE {
        const Floats minimum = Isa::LoadHalves(scales + kPanelColumns + c * kLanes);
        Unroll<kRows>([&](auto r) KERNEL_INLINE {
          const Floats x_sum = Isa::SetFloat(p.x_sums[first + r]);
          totals[r][c] = Isa::MulAdd(minimum, x_sum, totals[r][c]);
        });
      });
      AddScaled<kRows>(sums, scales, p.x_scales + first, totals);
      first += p.x_group_stride;
    }
    StoreTile<kRows>(p, row, column, totals);
  }

  // Tiles of kMaxRows rows, then one of what is left.
  template <int kMaxRows, class Tile>
  static void ForEachTile(const PanelProduct& p, const Tile& tile) {
    for (int32_t column = 0; column < p.columns; column += kColumns) {
      int32_t row = 0;
      for (; row + kMaxRows <= p.rows; row += kMaxRows) tile(Index<kMaxRows>(), row, column);
      Unroll<kMaxRows>([&](auto rows) KERNEL_INLINE {
        if constexpr (decltype(rows)::kValue > 0) {
          if (rows == p.rows - row) tile(rows, row, column);
        }
      });
    }
  }

  // Two sets of sums must fit the registers.
  static constexpr int kTileRows = (Isa::kMaxRows + 1) / 2;

  static void RunInt8(const PanelProduct& p) {
    ForEachTile<kTileRows>(p, [&p](auto rows, int32_t row, int32_t column) {
      Int8Tile<decltype(rows)::kValue>(p, row, column);
    });
  }
  static void RunInt4(const PanelProduct& p) {
    constexpr int kInt4Rows = kTileRows > 4 ? 4 : kTileRows;  // Scales take registers too.
    ForEachTile<kInt4Rows>(p, [&p](auto rows, int32_t row, int32_t column) {
      Int4Tile<decltype(rows)::kValue>(p, row, column);
    });
  }
};
