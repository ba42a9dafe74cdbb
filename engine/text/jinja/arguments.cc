#include "engine/text/jinja/arguments.h"

#include <algorithm>
#include <utility>

namespace treeline::jinja {

StatusOr<BoundArguments> BoundArguments::Bind(std::string_view function, const Arguments& arguments,
                                              std::vector<std::string_view> parameters,
                                              size_t required) {
  BoundArguments bound;
  bound.function_ = function;
  bound.values_.assign(parameters.size(), nullptr);
  if (arguments.positional.size() > parameters.size()) {
    return InvalidArgument("{}: takes at most {} arguments, {} given", function, parameters.size(),
                           arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    bound.values_[i] = &arguments.positional[i];
  }
  for (const auto& [name, value] : arguments.named) {
    const size_t place = std::find(parameters.begin(), parameters.end(), name) - parameters.begin();
    if (place == parameters.size()) {
      return InvalidArgument("{}: there is no argument '{}'", function, name);
    }
    if (bound.values_[place] != nullptr) {
      return InvalidArgument("{}: two values for the argument '{}'", function, name);
    }
    bound.values_[place] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound.values_[i] == nullptr) {
      return InvalidArgument("{}: the argument '{}' is missing", function, parameters[i]);
    }
  }
  bound.parameters_ = std::move(parameters);
  return bound;
}

Value BoundArguments::Get(size_t parameter, const Value& fallback) const {
  return Has(parameter) ? *values_[parameter] : fallback;
}

StatusOr<std::string_view> BoundArguments::GetText(size_t parameter,
                                                   std::string_view fallback) const {
  if (!Has(parameter)) return fallback;
  if (values_[parameter]->is_text()) return values_[parameter]->text();
  return InvalidArgument("{}: '{}' must be text, not {}", function_, parameters_[parameter],
                         TypeName(*values_[parameter]));
}

StatusOr<int64_t> BoundArguments::GetInteger(size_t parameter, int64_t fallback) const {
  if (!Has(parameter)) return fallback;
  if (values_[parameter]->is_integral()) return values_[parameter]->integer();
  return InvalidArgument("{}: '{}' must be an integer, not {}", function_, parameters_[parameter],
                         TypeName(*values_[parameter]));
}

bool BoundArguments::GetFlag(size_t parameter, bool fallback) const {
  return Has(parameter) ? IsTrue(*values_[parameter]) : fallback;
}

}  // namespace treeline::jinja
