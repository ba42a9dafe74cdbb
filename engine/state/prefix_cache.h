// States kept by the tokens that lead to them, so that a prompt which begins like an
// earlier one starts from there: a trie whose edges are runs of tokens, with a snapshot
// at some of its nodes. The least recently used snapshot goes when bytes run short.
//
// A snapshot means nothing to another model or attention form: a cache belongs to one
// loaded model and goes with it. One thread at a time (the scheduler's).
#ifndef TREELINE_ENGINE_STATE_PREFIX_CACHE_H_
#define TREELINE_ENGINE_STATE_PREFIX_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "engine/state/state_pool.h"

namespace treeline {

class PrefixCache {
 public:
  // Of snapshots and the tokens that lead to them. 0 keeps nothing.
  explicit PrefixCache(size_t max_bytes) : max_bytes_(max_bytes) {}
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  struct Match {
    // Of the longest kept prefix of the tokens, all of them perhaps; null: there is none. Valid
    // until the next Insert.
    const StateSnapshot* snapshot = nullptr;
    // How many tokens some kept sequence has in common with these. More than the snapshot's
    // length: a state kept there would have served.
    int32_t shared = 0;
  };
  // The snapshot becomes the most recently used.
  Match Find(std::span<const int32_t> tokens);

  // Keeps the state after `tokens`, in place of one it may have. False where it alone is larger
  // than max_bytes. REQUIRES: snapshot.length() == tokens.size(), at least 1.
  bool Insert(std::span<const int32_t> tokens, StateSnapshot snapshot);
  // Drops the least recently used snapshot; false where there is none.
  bool DropOldest();
  // There is a snapshot of exactly these tokens.
  bool Contains(std::span<const int32_t> tokens);

  size_t bytes() const { return bytes_; }
  size_t max_bytes() const { return max_bytes_; }
  int32_t num_snapshots() const { return static_cast<int32_t>(used_.size()); }

 private:
  struct Node {
    Node* parent = nullptr;
    std::vector<int32_t> edge;                          // The tokens from the parent to here.
    std::map<int32_t, std::unique_ptr<Node>> children;  // By their edge's first token.
    bool has_snapshot = false;
    StateSnapshot snapshot;
    std::list<Node*>::iterator use;  // In used_, where has_snapshot.
  };

  // How far down tokens lead.
  struct Place {
    Node* node;             // The last one reached by whole edges.
    size_t matched = 0;     // Tokens, of whole edges
    size_t in_edge = 0;     // and of a part of the next one,
    Node* below = nullptr;  // which leads here; null where in_edge is 0.
  };
  Place Walk(std::span<const int32_t> tokens);
  // The node for `tokens`, made where there is none.
  Node* NodeFor(std::span<const int32_t> tokens);
  void Drop(Node* node);   // Its snapshot, and the nodes that led only to it.
  void Prune(Node* node);  // A node without snapshot that is a leaf or has one child.
  static size_t EdgeBytes(size_t tokens) { return tokens * sizeof(int32_t); }

  const size_t max_bytes_;
  size_t bytes_ = 0;
  Node root_;
  std::list<Node*> used_;  // Nodes with a snapshot, the most recently used first.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_STATE_PREFIX_CACHE_H_
