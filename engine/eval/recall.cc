#include "engine/eval/recall.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "engine/sampling/random.h"

namespace treeline {

namespace {

constexpr int32_t kDistances[] = {256, 512, 1024, 2048, 4096, 7936};
// Ordinary text before a probe, so that what keeps the first tokens of all does not hold it.
constexpr size_t kLead = 64;
constexpr size_t kPassage = 48, kCue = 16;  // Of a copied passage, and how much of it leads in.
// More than any question has.
constexpr size_t kMargin = 128;

constexpr const char* kNames[] = {"Alice", "Robert", "Maria", "Henry", "Laura", "Peter",
                                  "Helen", "Frank",  "Diana", "Oscar", "Julia", "Simon",
                                  "Clara", "Martin", "Emma",  "Victor"};
constexpr const char* kWords[] = {
    "mountain", "river",   "garden", "window",  "bridge", "castle", "forest", "island",
    "lantern",  "market",  "orange", "pencil",  "rabbit", "silver", "summer", "ticket",
    "valley",   "village", "winter", "yellow",  "butter", "camera", "dragon", "engine",
    "flower",   "guitar",  "hammer", "kitchen", "letter", "mirror", "needle", "ocean"};

using Tokens = std::vector<int32_t>;

// What is drawn for one probe.
class Draws {
 public:
  Draws(uint64_t seed, int32_t probe) : key_{seed, static_cast<uint32_t>(probe), 0} {}
  size_t Below(size_t end) {
    return std::min(static_cast<size_t>(Uniform(key_, next_++) * static_cast<double>(end)),
                    end - 1);
  }
  template <size_t kCount>
  const char* OneOf(const char* const (&list)[kCount]) {
    return list[Below(kCount)];
  }

 private:
  const RandomKey key_;
  uint32_t next_ = 0;
};

Tokens Stretch(std::span<const int32_t> text, size_t length, Draws& draws) {
  const size_t begin = draws.Below(text.size() - length + 1);
  return Tokens(text.begin() + begin, text.begin() + begin + length);
}

Tokens Joined(std::initializer_list<std::span<const int32_t>> parts) {
  Tokens all;
  for (const std::span<const int32_t> part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// A probe without its distance: `shown` is what to remember.
struct Probe {
  const char* kind;
  Tokens lead, shown, between, cue, answer;

  RecallProbe At(int32_t distance) const {
    // What can be guessed does not depend on the distance: the shortest will do.
    const std::span<const int32_t> all(between);
    const std::span<const int32_t> gap = all.first(std::max(distance, kDistances[0]));
    const Tokens nothing;
    return {kind, distance, {Joined({lead, distance == 0 ? nothing : shown, gap, cue}), {answer}}};
  }
};

// Of tokens that end words: what follows does not change them.
StatusOr<Probe> KeyValueProbe(std::span<const int32_t> text, const Tokenizer& tokenizer,
                              Draws draws) {
  const char* name = draws.OneOf(kNames);
  const char* word = draws.OneOf(kWords);
  const auto encode = [&](const std::string& part) {
    return tokenizer.Encode(part, /*add_special=*/false, /*parse_special=*/false);
  };
  Probe probe{"kv", {}, {}, {}, {}, {}};
  TREELINE_ASSIGN_OR_RETURN(probe.shown,
                            encode(fmt::format("\nThe secret word of {} is {}.\n", name, word)));
  const std::string question = fmt::format("\nThe secret word of {} is", name);
  TREELINE_ASSIGN_OR_RETURN(probe.cue, encode(question));
  TREELINE_ASSIGN_OR_RETURN(const Tokens whole, encode(question + " " + word));
  if (probe.cue.empty() || whole.size() <= probe.cue.size()) {
    return InvalidArgument("recall: the tokenizer has no token for \" {}\" of its own", word);
  }
  probe.answer.assign(whole.begin() + probe.cue.size(), whole.end());
  const Tokens stretch = Stretch(text, kLead + *std::rbegin(kDistances), draws);
  probe.lead.assign(stretch.begin(), stretch.begin() + kLead);
  probe.between.assign(stretch.begin() + kLead, stretch.end());
  return probe;
}

Probe CopyProbe(std::span<const int32_t> text, Draws draws) {
  Probe probe{"copy", {}, {}, {}, {}, {}};
  probe.shown = Stretch(text, kPassage, draws);
  probe.cue.assign(probe.shown.begin(), probe.shown.begin() + kCue);
  probe.answer.assign(probe.shown.begin() + kCue, probe.shown.end());
  const Tokens stretch = Stretch(text, kLead + *std::rbegin(kDistances), draws);
  probe.lead.assign(stretch.begin(), stretch.begin() + kLead);
  probe.between.assign(stretch.begin() + kLead, stretch.end());
  return probe;
}

}  // namespace

StatusOr<std::vector<RecallProbe>> MakeRecallProbes(std::span<const int32_t> text,
                                                    const Tokenizer& tokenizer,
                                                    const RecallOptions& options) {
  const size_t needed = kLead + *std::rbegin(kDistances);
  if (text.size() < needed) {
    return InvalidArgument("recall: the text has {} tokens; {} are needed", text.size(), needed);
  }
  std::vector<int32_t> distances = {0};
  for (const int32_t distance : kDistances) {
    if (kLead + distance + kMargin <= static_cast<size_t>(options.max_context)) {
      distances.push_back(distance);
    }
  }
  if (distances.size() == 1) {
    return InvalidArgument("recall: a context of {} tokens is too short; {} are needed",
                           options.max_context, kLead + kDistances[0] + kMargin);
  }
  std::vector<RecallProbe> probes;
  for (int32_t i = 0; i < options.probes; ++i) {
    TREELINE_ASSIGN_OR_RETURN(const Probe key_value,
                              KeyValueProbe(text, tokenizer, Draws(options.seed, 2 * i)));
    const Probe copy = CopyProbe(text, Draws(options.seed, 2 * i + 1));
    for (const Probe* probe : {&key_value, &copy}) {
      for (const int32_t distance : distances) probes.push_back(probe->At(distance));
    }
  }
  return probes;
}

}  // namespace treeline
