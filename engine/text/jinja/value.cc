#include "engine/text/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace treeline::jinja {
namespace {

constexpr size_t kLinearSearchEntries = 8;

// 1, 1.0 and true are one key. A float that is a whole number hashes as that number.
size_t HashNumber(const Value& key) {
  const double number = key.number();
  const bool whole = key.is_integral() || (std::abs(number) < 9e15 && number == std::floor(number));
  if (!whole) return std::hash<double>()(number);
  return std::hash<int64_t>()(key.is_integral() ? key.integer() : static_cast<int64_t>(number));
}

std::string_view SequenceTypeName(SequenceType type) {
  switch (type) {
    case SequenceType::kList:
      return "list";
    case SequenceType::kTuple:
      return "tuple";
    case SequenceType::kGenerator:
      return "generator";
    case SequenceType::kRange:
      return "range";
    case SequenceType::kDictKeys:
      return "dict_keys";
    case SequenceType::kDictValues:
      return "dict_values";
    case SequenceType::kDictItems:
      return "dict_items";
  }
  return "list";
}

}  // namespace

bool Value::IsSameAs(const Value& other) const {
  if (data_.index() != other.data_.index()) return false;
  if (is_text()) return text().data() == other.text().data() && text() == other.text();
  if (is_none()) return true;
  if (is_bool()) return bool_value() == other.bool_value();
  if (is_number()) return number() == other.number();
  return missing() == other.missing() && sequence() == other.sequence() && dict() == other.dict() &&
         attributes() == other.attributes() && loop() == other.loop() && macro() == other.macro() &&
         callable() == other.callable();
}

bool Dict::IsKey(const Value& value) {
  return value.is_none() || value.is_number() || value.is_text();
}

size_t Dict::KeyHash::operator()(const Value& key) const {
  if (key.is_text()) return std::hash<std::string_view>()(key.text());
  return key.is_number() ? HashNumber(key) : 0;
}

bool Dict::KeyEqual::operator()(const Value& a, const Value& b) const {
  if (a.is_text() && b.is_text()) return a.text() == b.text();
  if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
  if (a.is_number() && b.is_number()) return a.number() == b.number();
  return a.is_none() && b.is_none();
}

const Value* Dict::Find(const Value& key) const {
  if (!IsKey(key)) return nullptr;
  if (index_.empty()) {
    const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
      return KeyEqual()(entry.first, key);
    });
    return found == entries_.end() ? nullptr : &found->second;
  }
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

void Dict::Set(const Value& key, const Value& value) {
  if (const Value* present = Find(key)) {
    *const_cast<Value*>(present) = value;
    return;
  }
  entries_.emplace_back(key, value);
  if (entries_.size() <= kLinearSearchEntries) return;
  if (index_.empty()) {
    for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(entries_[i].first, i);
  } else {
    index_.emplace(key, entries_.size() - 1);
  }
}

std::string_view TypeName(const Value& value) {
  if (value.is_none()) return "NoneType";
  if (value.is_undefined()) return "Undefined";
  if (value.is_bool()) return "bool";
  if (value.is_integral()) return "int";
  if (value.is_float()) return "float";
  if (value.is_markup()) return "Markup";
  if (value.is_text()) return "str";
  if (const Sequence* sequence = value.sequence()) return SequenceTypeName(sequence->type);
  if (value.dict() != nullptr) return "dict";
  if (value.attributes() != nullptr) return "Namespace";
  if (value.loop() != nullptr) return "LoopContext";
  return value.macro() != nullptr ? "Macro" : "function";
}

bool IsTrue(const Value& value) {
  if (value.is_none() || value.is_undefined()) return false;
  if (value.is_number()) return value.number() != 0;
  if (value.is_text()) return !value.text().empty();
  if (const Dict* dict = value.dict()) return !dict->entries().empty();
  const Sequence* sequence = value.sequence();
  // A generator is an object, true even when nothing is left in it.
  return sequence == nullptr || sequence->type == SequenceType::kGenerator ||
         !sequence->items.empty();
}

}  // namespace treeline::jinja
