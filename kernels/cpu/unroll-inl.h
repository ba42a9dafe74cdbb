// Unroll<n>(f) calls f(Index<0>()), ..., f(Index<n - 1>()), inlined: arrays that are indexed by
// such constants alone live in registers. Included inside a namespace of one instruction set,
// so that it is compiled for that set too.

template <int i>
struct Index {
  static constexpr int kValue = i;
  constexpr operator int() const { return i; }
};

template <int... i, class Function>
inline KERNEL_INLINE void UnrollIndices(std::integer_sequence<int, i...>, const Function& f) {
  (f(Index<i>()), ...);
}

template <int n, class Function>
inline KERNEL_INLINE void Unroll(const Function& f) {
  UnrollIndices(std::make_integer_sequence<int, n>(), f);
}
