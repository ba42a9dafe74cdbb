// The values of a template, with Python's semantics. A Value is a small copyable handle:
// text, lists, dicts and the other objects belong to the Runtime of one rendering (or, for
// literals and inputs, to the template and the caller's JSON) and live until it ends, so a
// template can build neither cycles that leak nor chains that overflow a destructor.
#ifndef TREELINE_ENGINE_TEXT_JINJA_VALUE_H_
#define TREELINE_ENGINE_TEXT_JINJA_VALUE_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace treeline::jinja {

struct Callable;
class Dict;
struct Loop;
struct Macro;
struct Missing;
struct Namespace;
struct Sequence;

// UTF-8. `markup` marks what `|safe` made: text added to it is HTML-escaped, as by
// markupsafe.Markup.
struct Text {
  std::string_view bytes;
  bool markup = false;
};

class Value {
 public:
  Value() = default;  // None.
  explicit Value(bool value) : data_(value) {}
  explicit Value(int64_t value) : data_(value) {}
  explicit Value(double value) : data_(value) {}
  explicit Value(std::string_view bytes, bool markup = false) : data_(Text{bytes, markup}) {}
  explicit Value(const char*) = delete;  // It would turn into a bool.
  explicit Value(const Missing* missing) : data_(missing) {}
  explicit Value(Sequence* sequence) : data_(sequence) {}
  explicit Value(const Dict* dict) : data_(dict) {}
  explicit Value(Namespace* attributes) : data_(attributes) {}
  explicit Value(const Loop* loop) : data_(loop) {}
  explicit Value(const Macro* macro) : data_(macro) {}
  explicit Value(const Callable* callable) : data_(callable) {}

  bool is_none() const { return std::holds_alternative<std::monostate>(data_); }
  bool is_undefined() const { return std::holds_alternative<const Missing*>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_text() const { return std::holds_alternative<Text>(data_); }
  // Python's bool is an int: true for both.
  bool is_integral() const { return is_bool() || std::holds_alternative<int64_t>(data_); }
  bool is_number() const { return is_integral() || is_float(); }
  bool is_callable() const { return macro() != nullptr || callable() != nullptr; }

  // The value, which must be of the type asked for.
  bool bool_value() const { return std::get<bool>(data_); }
  int64_t integer() const { return is_bool() ? bool_value() : std::get<int64_t>(data_); }
  double number() const {
    return is_float() ? std::get<double>(data_) : static_cast<double>(integer());
  }
  std::string_view text() const { return std::get<Text>(data_).bytes; }

  bool is_markup() const { return is_text() && std::get<Text>(data_).markup; }

  // The object, or null where the value is something else.
  const Missing* missing() const { return Get<const Missing*>(); }
  Sequence* sequence() const { return Get<Sequence*>(); }
  const Dict* dict() const { return Get<const Dict*>(); }
  Namespace* attributes() const { return Get<Namespace*>(); }
  const Loop* loop() const { return Get<const Loop*>(); }
  const Macro* macro() const { return Get<const Macro*>(); }
  const Callable* callable() const { return Get<const Callable*>(); }

  // Whether both are the same object, or the same plain value of the same type.
  bool IsSameAs(const Value& other) const;

 private:
  template <typename T>
  T Get() const {
    const T* held = std::get_if<T>(&data_);
    return held == nullptr ? nullptr : *held;
  }

  std::variant<std::monostate, const Missing*, bool, int64_t, double, Text, Sequence*, const Dict*,
               Namespace*, const Loop*, const Macro*, const Callable*>
      data_;
};

enum class SequenceType { kList, kTuple, kGenerator, kRange, kDictKeys, kDictValues, kDictItems };

struct Sequence {
  SequenceType type = SequenceType::kList;
  std::vector<Value> items;
  size_t consumed = 0;  // Of a generator: how many items were already taken.
};

// Insertion order, unique keys. A key is None, a number or text (IsKey).
class Dict {
 public:
  using Entry = std::pair<Value, Value>;

  static bool IsKey(const Value& value);

  // Null where there is no such key, also for what cannot be a key.
  const Value* Find(const Value& key) const;
  // The last value set for a key wins; its place is that of the first.
  void Set(const Value& key, const Value& value);
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  struct KeyHash {
    size_t operator()(const Value& key) const;
  };
  struct KeyEqual {
    bool operator()(const Value& a, const Value& b) const;
  };

  std::vector<Entry> entries_;
  // Places in entries_; left empty while a linear search is as fast.
  std::unordered_map<Value, size_t, KeyHash, KeyEqual> index_;
};

// What namespace() makes: the one object that a template can change.
struct Namespace {
  Dict attributes;
};

// The `loop` variable of a running {% for %}.
struct Loop {
  const std::vector<Value>* items = nullptr;
  size_t index = 0;
};

// Why a value is undefined, for the message when it is used.
struct Missing {
  enum class Reason { kName, kMember, kHint };
  Reason reason = Reason::kName;
  Value owner;  // kMember: what lacks it.
  Value name;   // The variable, attribute or subscript; the whole message for kHint.
};

// The name of the Python type, as in its error messages: "str", "NoneType".
std::string_view TypeName(const Value& value);

// Python's truth: false for None, 0, "", empty collections and what is undefined.
bool IsTrue(const Value& value);

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_VALUE_H_
