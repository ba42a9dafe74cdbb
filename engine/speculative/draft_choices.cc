#include "engine/speculative/draft_choices.h"

#include <algorithm>
#include <map>
#include <utility>

#include "engine/speculative/head_guesses.h"
#include "engine/speculative/token_tree.h"

namespace treeline {
namespace {

constexpr char kMcSim7b63[] = "mc_sim_7b_63";

// The tree that Medusa's authors tuned on Vicuna-7B: the data of medusa/model/medusa_choices.py in
// github.com/FasterDecoding/Medusa (Apache-2.0), a path's ranks as digits, in their order.
constexpr const char* kMcSim7b63Paths[] = {
    "0",   "00",  "1",   "01",  "2",   "000", "10",  "02",  "3",    "03",  "4",    "04",  "20",
    "05",  "001", "5",   "06",  "6",   "07",  "010", "11",  "7",    "08",  "002",  "30",  "09",
    "8",   "9",   "100", "020", "12",  "003", "40",  "21",  "004",  "005", "0000", "011", "006",
    "030", "50",  "13",  "007", "008", "009", "60",  "040", "14",   "70",  "012",  "200", "31",
    "22",  "80",  "050", "15",  "101", "021", "90",  "060", "0001", "16",  "070"};

Json McSim7b63() {
  Json paths = Json::array();
  for (const std::string path : kMcSim7b63Paths) {
    Json& ranks = paths.emplace_back(Json::array());
    for (const char rank : path) ranks.push_back(rank - '0');
  }
  return paths;
}

bool IsRank(const Json& rank) {
  return rank.is_number_integer() && rank.get<int64_t>() >= 0 &&
         rank.get<int64_t>() < kGuessesPerHead;
}

}  // namespace

StatusOr<DraftChoices> DraftChoices::Load(const std::string& name_or_file) {
  if (name_or_file == kMcSim7b63) return Parse(McSim7b63(), name_or_file);
  TREELINE_ASSIGN_OR_RETURN(const Json paths, ParseJsonFile(name_or_file));
  return Parse(paths, name_or_file);
}

StatusOr<DraftChoices> DraftChoices::Parse(const Json& paths, const std::string& source) {
  constexpr int32_t kMost = TokenTree::kMaxNodes - 1;
  if (!paths.is_array() || paths.empty() || paths.size() > kMost) {
    return InvalidArgument(
        "{}: a draft tree is a list of 1 to {} paths, such as [[0], [0, 0], [1]]", source, kMost);
  }
  DraftChoices tree;
  std::map<std::vector<int32_t>, int32_t> known = {{{}, -1}};  // Paths, and which they are.
  for (const Json& path : paths) {
    if (!path.is_array() || path.empty() || !std::all_of(path.begin(), path.end(), IsRank)) {
      return InvalidArgument("{}: path {} is {}; a path is a list of ranks from 0 to {}", source,
                             tree.choices_.size(), path.dump(), kGuessesPerHead - 1);
    }
    const auto ranks = path.get<std::vector<int32_t>>();
    const auto parent = known.find({ranks.begin(), ranks.end() - 1});
    if (parent == known.end()) {
      return InvalidArgument("{}: path {}, {}, stands before the one that it continues", source,
                             tree.choices_.size(), path.dump());
    }
    const auto index = static_cast<int32_t>(tree.choices_.size());
    tree.choices_.push_back({parent->second, static_cast<int32_t>(ranks.size()) - 1, ranks.back()});
    if (!known.emplace(ranks, index).second) {
      return InvalidArgument("{}: path {}, {}, stands there twice", source, index, path.dump());
    }
  }
  return tree;
}

int32_t DraftChoices::num_heads() const {
  int32_t heads = 0;
  for (const Choice& choice : choices_) heads = std::max(heads, choice.head + 1);
  return heads;
}

}  // namespace treeline
