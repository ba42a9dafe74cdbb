#include "engine/text/jinja/runtime.h"

#include <limits>

namespace treeline::jinja {

Status Runtime::Step() {
  if (++steps_ > kMaxSteps) return InvalidArgument("runs for more than {} steps", kMaxSteps);
  return OkStatus();
}

Status Runtime::Spend(size_t bytes) {
  if (bytes > kMaxBytes - bytes_) {
    return InvalidArgument("works through more than {} MiB of text and values", kMaxBytes >> 20);
  }
  bytes_ += bytes;
  return OkStatus();
}

StatusOr<Value> Runtime::NewText(std::string text, bool markup) {
  TREELINE_RETURN_IF_ERROR(Spend(sizeof(text) + text.size()));
  return Value(std::string_view(texts_.emplace_back(std::move(text))), markup);
}

StatusOr<Value> Runtime::NewSequence(SequenceType type, std::vector<Value> items) {
  TREELINE_RETURN_IF_ERROR(Spend(sizeof(Sequence) + items.size() * sizeof(Value)));
  return Value(&sequences_.emplace_back(Sequence{type, std::move(items)}));
}

StatusOr<Value> Runtime::NewDict(std::vector<Dict::Entry> entries) {
  TREELINE_RETURN_IF_ERROR(Spend(sizeof(Dict) + 2 * entries.size() * sizeof(Dict::Entry)));
  Dict dict;
  for (const auto& [key, value] : entries) {
    if (!Dict::IsKey(key)) {
      return InvalidArgument("unhashable type: '{}'; the key of a dict is text, a number or none",
                             TypeName(key));
    }
    dict.Set(key, value);
  }
  return Value(static_cast<const Dict*>(&dicts_.emplace_back(std::move(dict))));
}

StatusOr<Value> Runtime::NewNamespace() {
  TREELINE_RETURN_IF_ERROR(Spend(sizeof(Namespace)));
  return Value(&namespaces_.emplace_back());
}

StatusOr<Value> Runtime::NewCallable(const Builtin* builtin, const Value& self) {
  TREELINE_RETURN_IF_ERROR(Spend(sizeof(Callable)));
  return Value(static_cast<const Callable*>(&callables_.emplace_back(Callable{builtin, self})));
}

StatusOr<Value> Runtime::NewUndefined(Missing missing) {
  TREELINE_RETURN_IF_ERROR(Spend(sizeof(Missing)));
  return Value(static_cast<const Missing*>(&missing_.emplace_back(missing)));
}

StatusOr<Value> Runtime::NewUndefinedHint(std::string hint) {
  TREELINE_ASSIGN_OR_RETURN(const Value message, NewText(std::move(hint)));
  return NewUndefined({Missing::Reason::kHint, Value(), message});
}

StatusOr<Value> Runtime::FromJson(const OrderedJson& json, int depth) {
  TREELINE_RETURN_IF_ERROR(Step());
  if (depth > kMaxValueDepth) {
    return InvalidArgument("an input is nested deeper than {} levels", kMaxValueDepth);
  }
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return Value(json.get<bool>());
    case OrderedJson::value_t::number_integer:
      return Value(json.get<int64_t>());
    case OrderedJson::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return InvalidArgument("an input holds {}, an integer beyond 64 bits",
                               json.get<uint64_t>());
      }
      return Value(json.get<int64_t>());
    case OrderedJson::value_t::number_float:
      return Value(json.get<double>());
    case OrderedJson::value_t::string:
      return Value(std::string_view(json.get_ref<const std::string&>()));
    case OrderedJson::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const OrderedJson& element : json) {
        TREELINE_ASSIGN_OR_RETURN(items.emplace_back(), FromJson(element, depth + 1));
      }
      return NewSequence(SequenceType::kList, std::move(items));
    }
    case OrderedJson::value_t::object: {
      std::vector<Dict::Entry> entries;
      entries.reserve(json.size());
      for (auto member = json.begin(); member != json.end(); ++member) {
        TREELINE_ASSIGN_OR_RETURN(const Value value, FromJson(*member, depth + 1));
        entries.emplace_back(Value(std::string_view(member.key())), value);
      }
      return NewDict(std::move(entries));
    }
    default:
      return Value();
  }
}

}  // namespace treeline::jinja
