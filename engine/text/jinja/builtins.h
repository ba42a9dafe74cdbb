// The filters, tests, methods and functions that templates may use, looked up by name.
#ifndef TREELINE_ENGINE_TEXT_JINJA_BUILTINS_H_
#define TREELINE_ENGINE_TEXT_JINJA_BUILTINS_H_

#include <span>
#include <string_view>

#include "engine/base/status.h"
#include "engine/text/jinja/runtime.h"

namespace treeline::jinja {

// Null where there is none of that name.
const Builtin* FindFilter(std::string_view name);
const Builtin* FindTest(std::string_view name);
const Builtin* FindFunction(std::string_view name);
const Builtin* FindMethod(const Value& object, std::string_view name);

// INVALID_ARGUMENT where Python's type has a method of this name that FindMethod lacks; such a
// method also hides a dict's member of that name.
Status CheckMethodSupported(const Value& object, std::string_view name);

// The tables behind the look-ups, one in each file.
std::span<const Builtin> TextFilters();
std::span<const Builtin> SequenceFilters();
std::span<const Builtin> TextMethods();

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_BUILTINS_H_
