// The form of one layer's attention, as data: which tokens a row attends to
// directly, which through the summed state S, and how the two meet. The family is
// that of You et al. (ICML 2024) with windows, sinks, decay and a joint denominator;
// docs/attention.md gives the mathematics.
#ifndef TREELINE_KERNELS_ATTENTION_FORM_H_
#define TREELINE_KERNELS_ATTENTION_FORM_H_

#include <algorithm>
#include <cstdint>

namespace treeline {

// The local set of a row at position p, sinks aside.
enum class Window {
  kGroup,    // Tokens of p's own group and of the window_size / group_size - 1 groups before it.
  kSliding,  // Tokens less than window_size back.
};

// The weight of a token in the local set; s is the raw q.k, c the one of (normalised) q and k.
enum class Local {
  kNone,     // 0: only the linear branch and the convolution.
  kSoftmax,  // softmax(s / sqrt(head_dim)) over the local set.
  kRelu2,    // relu(c)^2.
  kLaplace,  // (1 + erf((s / group_size - mu) / (sd sqrt 2))) / 2, mu^2 = 1/2, sd^2 = 1/(4 pi).
};

// phi, applied to (normalised) q and k in the linear branch.
enum class FeatureMap {
  kNone,  // No linear branch: what leaves the window is forgotten.
  kIdentity,
  kRelu,
  kElu1,      // 1 + elu(x).
  kHedgehog,  // softmax over the features [x W, -x W], W [head_dim, features / 2] learned per head.
};

enum class QkNorm {
  kNone,
  kL2,  // x * rsqrt(max(|x|^2, 1e-12)), for phi and relu2.
};

enum class Denominator {
  kNone,   // local + alpha phi(q) S.
  kSum,    // local + alpha phi(q) S / max(phi(q) z, 1e-6).
  kJoint,  // (sum_local e v + f sum_linear u v) / (sum_local e + f sum_linear u).
};

struct AttentionForm {
  int32_t group_size = 0;  // Tokens folded into S at a time; 0: softmax over everything.
  Window window = Window::kGroup;
  int32_t window_size = 0;  // At least 1; of kGroup, a multiple of group_size.
  int32_t sinks = 0;        // The first tokens of a sequence stay in every row's local set.
  bool decay = false;       // S fades by a learned factor per KV head and group.
  Local local = Local::kSoftmax;
  FeatureMap feature_map = FeatureMap::kNone;
  int32_t feature_size = 0;  // Of kHedgehog: features of a head, even; 0: 2 head_dim.
  QkNorm qk_norm = QkNorm::kNone;
  Denominator denominator = Denominator::kNone;
  int32_t conv_kernel =
      0;  // Odd; the causal convolution over v has conv_kernel/2 + 1 taps. 0: none.

  bool has_groups() const { return group_size > 0; }
  bool has_linear() const { return feature_map != FeatureMap::kNone; }
  bool has_normaliser() const { return denominator != Denominator::kNone; }
  int32_t conv_taps() const { return conv_kernel > 0 ? conv_kernel / 2 + 1 : 0; }
  // Number of features of phi for a head of head_dim.
  int32_t feature_dim(int32_t head_dim) const {
    if (!has_linear()) return 0;
    if (feature_map != FeatureMap::kHedgehog) return head_dim;
    return feature_size > 0 ? feature_size : 2 * head_dim;
  }
  // The first position, sinks aside, that is local to a row at `position`; it may be negative.
  int32_t window_begin(int32_t position) const {
    if (!has_groups()) return 0;
    if (window == Window::kSliding) return position - window_size + 1;
    return (position / group_size + 1) * group_size - window_size;
  }
  // gamma(p) - lag is the newest group that lies outside the window of every row of group
  // gamma(p): the one that a sequence reaching group gamma(p) folds into S.
  // REQUIRES: has_groups().
  int32_t lag() const {
    if (window == Window::kGroup) return window_size / group_size;
    return 1 + (window_size - 1 + group_size - 1) / group_size;
  }
  // Rows of the K and V rings. max_context counts where nothing ever folds.
  int32_t k_ring_rows(int32_t max_context) const {
    return has_groups() ? lag() * group_size : max_context;
  }
  int32_t v_ring_rows(int32_t max_context) const {
    return std::max(k_ring_rows(max_context), conv_taps() - 1);
  }

  bool operator==(const AttentionForm&) const = default;
};

}  // namespace treeline

#endif  // TREELINE_KERNELS_ATTENTION_FORM_H_
