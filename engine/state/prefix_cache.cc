#include "engine/state/prefix_cache.h"

#include <algorithm>
#include <utility>

namespace treeline {
namespace {

size_t CommonLength(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t limit = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + limit, b.begin()).first - a.begin();
}

}  // namespace

PrefixCache::Place PrefixCache::Walk(std::span<const int32_t> tokens) {
  Place place{.node = &root_};
  while (place.matched < tokens.size()) {
    const auto found = place.node->children.find(tokens[place.matched]);
    if (found == place.node->children.end()) break;
    Node* child = found->second.get();
    const size_t common = CommonLength(child->edge, tokens.subspan(place.matched));
    if (common < child->edge.size()) {
      place.in_edge = common;
      place.below = child;
      break;
    }
    place.matched += common;
    place.node = child;
  }
  return place;
}

PrefixCache::Match PrefixCache::Find(std::span<const int32_t> tokens) {
  const Place place = Walk(tokens);
  Match match{.shared = static_cast<int32_t>(place.matched + place.in_edge)};
  Node* node = place.node;
  while (node != nullptr && !node->has_snapshot) node = node->parent;
  if (node != nullptr) {
    used_.splice(used_.begin(), used_, node->use);
    match.snapshot = &node->snapshot;
  }
  return match;
}

bool PrefixCache::Contains(std::span<const int32_t> tokens) {
  const Place place = Walk(tokens);
  return place.matched == tokens.size() && place.node->has_snapshot;
}

PrefixCache::Node* PrefixCache::NodeFor(std::span<const int32_t> tokens) {
  Place place = Walk(tokens);
  Node* node = place.node;
  if (place.in_edge > 0) {
    // The edge parts where the tokens leave it, or end.
    std::vector<int32_t>& edge = place.below->edge;
    std::unique_ptr<Node>& slot = node->children.at(edge.front());
    std::unique_ptr<Node> below = std::move(slot);
    slot = std::make_unique<Node>();
    slot->parent = node;
    node = slot.get();
    node->edge.assign(edge.begin(), edge.begin() + place.in_edge);
    edge.erase(edge.begin(), edge.begin() + place.in_edge);
    below->parent = node;
    node->children.emplace(edge.front(), std::move(below));
  }
  const std::span<const int32_t> rest = tokens.subspan(place.matched + place.in_edge);
  if (rest.empty()) return node;
  auto leaf = std::make_unique<Node>();
  leaf->parent = node;
  leaf->edge.assign(rest.begin(), rest.end());
  bytes_ += EdgeBytes(rest.size());
  return node->children.emplace(rest.front(), std::move(leaf)).first->second.get();
}

bool PrefixCache::Insert(std::span<const int32_t> tokens, StateSnapshot snapshot) {
  TREELINE_CHECK(!tokens.empty() && tokens.size() == static_cast<size_t>(snapshot.length()));
  if (snapshot.bytes() + EdgeBytes(tokens.size()) > max_bytes_) return false;
  Node* node = NodeFor(tokens);
  if (node->has_snapshot) {
    bytes_ -= node->snapshot.bytes();
    used_.erase(node->use);
  }
  bytes_ += snapshot.bytes();
  node->snapshot = std::move(snapshot);
  node->has_snapshot = true;
  node->use = used_.insert(used_.begin(), node);
  // It fits alone, so it is never the one that goes.
  while (bytes_ > max_bytes_) DropOldest();
  return true;
}

bool PrefixCache::DropOldest() {
  if (used_.empty()) return false;
  Drop(used_.back());
  return true;
}

void PrefixCache::Drop(Node* node) {
  bytes_ -= node->snapshot.bytes();
  used_.erase(node->use);
  node->snapshot = StateSnapshot();
  node->has_snapshot = false;
  Prune(node);
}

void PrefixCache::Prune(Node* node) {
  while (node != &root_ && !node->has_snapshot && node->children.empty()) {
    Node* parent = node->parent;
    bytes_ -= EdgeBytes(node->edge.size());
    parent->children.erase(node->edge.front());
    node = parent;
  }
  if (node == &root_ || node->has_snapshot || node->children.size() != 1) return;
  // Nothing branches or ends here any more: one edge again.
  std::unique_ptr<Node> child = std::move(node->children.begin()->second);
  child->edge.insert(child->edge.begin(), node->edge.begin(), node->edge.end());
  child->parent = node->parent;
  std::unique_ptr<Node>& slot = node->parent->children.at(child->edge.front());
  slot = std::move(child);
}

}  // namespace treeline
