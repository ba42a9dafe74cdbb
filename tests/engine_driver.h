// Drives a ModelEngine by hand, as the scheduler would: what tests of whole models
// share.
#ifndef TREELINE_TESTS_ENGINE_DRIVER_H_
#define TREELINE_TESTS_ENGINE_DRIVER_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model_engine.h"

namespace treeline {

inline StatusOr<std::unique_ptr<ModelEngine>> OpenEngine(const std::string& model,
                                                         const ModelEngine::Options& options = {}) {
  TREELINE_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(model));
  return ModelEngine::Load(*checkpoint, options);
}

inline std::unique_ptr<ModelEngine> LoadEngine(const std::string& model,
                                               const ModelEngine::Options& options = {}) {
  StatusOr<std::unique_ptr<ModelEngine>> engine = OpenEngine(model, options);
  if (!engine.ok()) {
    ADD_FAILURE() << engine.status();
    return nullptr;
  }
  return *std::move(engine);
}

inline std::vector<RowResult> MustStep(ModelEngine& engine, const Batch& batch) {
  StatusOr<std::vector<RowResult>> results = engine.Step(batch);
  EXPECT_TRUE(results.ok()) << results.status();
  return results.ok() ? *std::move(results) : std::vector<RowResult>(batch.requests.size());
}

inline std::vector<int32_t> AllTokens(int32_t vocab_size) {
  std::vector<int32_t> ids(vocab_size);
  for (int32_t i = 0; i < vocab_size; ++i) ids[i] = i;
  return ids;
}

// Feeds `tokens` to a slot in chunks of at most `chunk`; for every row, the log-probabilities
// of `score` (for all rows).
inline std::vector<std::vector<float>> ScoreRows(ModelEngine& engine, const StateSlot& slot,
                                                 const std::vector<int32_t>& tokens, int32_t chunk,
                                                 const std::vector<int32_t>& score) {
  std::vector<std::vector<float>> rows;
  for (size_t first = 0; first < tokens.size(); first += chunk) {
    const size_t count = std::min<size_t>(chunk, tokens.size() - first);
    Batch batch;
    batch.AddChain(slot.index(), std::span<const int32_t>(tokens).subspan(first, count));
    for (size_t i = 0; i < count; ++i) {
      RowRequest request;
      request.row = static_cast<int32_t>(i);
      request.score = score;
      batch.requests.push_back(request);
    }
    for (RowResult& result : MustStep(engine, batch)) rows.push_back(std::move(result.scores));
  }
  return rows;
}

}  // namespace treeline

#endif  // TREELINE_TESTS_ENGINE_DRIVER_H_
