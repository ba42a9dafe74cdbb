// Matching the arguments of a call to the parameters of a built-in.
#ifndef TREELINE_ENGINE_TEXT_JINJA_ARGUMENTS_H_
#define TREELINE_ENGINE_TEXT_JINJA_ARGUMENTS_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/jinja/runtime.h"

namespace treeline::jinja {

// Arguments by parameter; read them in the order of Bind's names. The Arguments bound must
// outlive it.
class BoundArguments {
 public:
  // INVALID_ARGUMENT naming the function for an argument too many, unknown or given twice, and
  // where one of the first `required` is missing.
  static StatusOr<BoundArguments> Bind(std::string_view function, const Arguments& arguments,
                                       std::vector<std::string_view> parameters,
                                       size_t required = 0);

  bool Has(size_t parameter) const { return values_[parameter] != nullptr; }
  // The argument, or the fallback where it was left out.
  Value Get(size_t parameter, const Value& fallback = Value()) const;

  // The same, of one type: INVALID_ARGUMENT naming the function and the parameter otherwise.
  StatusOr<std::string_view> GetText(size_t parameter, std::string_view fallback = "") const;
  StatusOr<int64_t> GetInteger(size_t parameter, int64_t fallback) const;
  bool GetFlag(size_t parameter, bool fallback = false) const;  // Anything has a truth.

 private:
  std::string_view function_;
  std::vector<std::string_view> parameters_;
  std::vector<const Value*> values_;
};

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_ARGUMENTS_H_
