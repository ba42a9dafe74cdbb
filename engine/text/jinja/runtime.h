// What one rendering owns and may use up: its objects, its steps and its memory. Every
// operation takes the Runtime and charges for what it does before doing it, so a hostile
// template runs into a clear error in bounded time and memory. Not thread-safe; one per Render.
#ifndef TREELINE_ENGINE_TEXT_JINJA_RUNTIME_H_
#define TREELINE_ENGINE_TEXT_JINJA_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/text/jinja/value.h"

namespace treeline::jinja {

// Evaluated nodes, compared elements and the like.
inline constexpr int64_t kMaxSteps = 10'000'000;
// Bytes of text and collections read or made by all operations together.
inline constexpr size_t kMaxBytes = size_t{64} << 20;
// Lists and dicts inside each other, when they are converted, printed or compared.
inline constexpr int kMaxValueDepth = 100;

// The arguments of a call, evaluated.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string_view, Value>> named;
};

class Runtime;

// A built-in filter, test, method or function. `self` is the filtered or tested value or the
// method's object, and None for a function.
struct Builtin {
  std::string_view name;
  StatusOr<Value> (*run)(Runtime& runtime, const Value& self, const Arguments& arguments);
};

// A built-in as a value: `text.strip`, `range`.
struct Callable {
  const Builtin* builtin;
  Value self;
};

class Runtime {
 public:
  explicit Runtime(int64_t now_unix_seconds) : now_unix_seconds_(now_unix_seconds) {}
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // The time that strftime_now() formats, as UTC.
  int64_t now_unix_seconds() const { return now_unix_seconds_; }

  // INVALID_ARGUMENT past kMaxSteps and kMaxBytes.
  Status Step();
  Status Spend(size_t bytes);

  // These charge for the new object.
  StatusOr<Value> NewText(std::string text, bool markup = false);
  StatusOr<Value> NewSequence(SequenceType type, std::vector<Value> items);
  StatusOr<Value> NewDict(std::vector<Dict::Entry> entries);
  StatusOr<Value> NewNamespace();
  StatusOr<Value> NewCallable(const Builtin* builtin, const Value& self);
  StatusOr<Value> NewUndefined(Missing missing);
  StatusOr<Value> NewUndefinedHint(std::string hint);

  // Text stays a view of the JSON, which must outlive the Runtime.
  StatusOr<Value> FromJson(const OrderedJson& json, int depth = 0);

 private:
  const int64_t now_unix_seconds_;
  int64_t steps_ = 0;
  size_t bytes_ = 0;
  // Deques: their elements never move.
  std::deque<std::string> texts_;
  std::deque<Sequence> sequences_;
  std::deque<Dict> dicts_;
  std::deque<Namespace> namespaces_;
  std::deque<Callable> callables_;
  std::deque<Missing> missing_;
};

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_RUNTIME_H_
