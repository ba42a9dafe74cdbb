#include "server/flags.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "engine/base/file.h"
#include "proto/config.pb.h"

namespace treeline {

namespace {

using google::protobuf::FieldDescriptor;
using Config = google::protobuf::Message;

constexpr char kConfigFlag[] = "config";

// A field and the chain of messages that leads to it.
struct Flag {
  std::string name;  // "max-context"
  const FieldDescriptor* field;
  std::vector<const FieldDescriptor*> parents;

  const FlagOptions& options() const { return field->options().GetExtension(flag); }
  bool is_bool() const { return field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL; }

  Config* MutableOwner(Config* config) const {
    for (const FieldDescriptor* parent : parents) {
      config = config->GetReflection()->MutableMessage(config, parent);
    }
    return config;
  }
  const Config& Owner(const Config& config) const {
    const Config* owner = &config;
    for (const FieldDescriptor* parent : parents) {
      owner = &owner->GetReflection()->GetMessage(*owner, parent);
    }
    return *owner;
  }
  bool IsSet(const Config& config) const {
    const Config& owner = Owner(config);
    return field->is_repeated() ? owner.GetReflection()->FieldSize(owner, field) > 0
                                : owner.GetReflection()->HasField(owner, field);
  }
};

void CollectFlags(const google::protobuf::Descriptor* type,
                  const std::vector<const FieldDescriptor*>& parents, std::vector<Flag>* flags) {
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      std::vector<const FieldDescriptor*> path = parents;
      path.push_back(field);
      CollectFlags(field->message_type(), path, flags);
    } else {
      std::string name = field->name();
      std::replace(name.begin(), name.end(), '_', '-');
      flags->push_back({name, field, parents});
    }
  }
}

std::vector<Flag> FlagsOf(const Config& config) {
  std::vector<Flag> flags;
  CollectFlags(config.GetDescriptor(), {}, &flags);
  return flags;
}

int EditDistance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

Status UnknownFlag(const std::string& name, const std::vector<Flag>& flags) {
  std::string nearest = kConfigFlag;
  for (const Flag& flag : flags) {
    if (EditDistance(name, flag.name) < EditDistance(name, nearest)) nearest = flag.name;
  }
  const int close_enough = 1 + static_cast<int>(name.size()) / 3;
  const std::string hint = EditDistance(name, nearest) <= close_enough
                               ? fmt::format("did you mean --{}?", nearest)
                               : std::string("--help lists the flags");
  return InvalidArgument("unknown flag --{}; {}", name, hint);
}

template <typename Number>
std::optional<Number> ParseNumber(const std::string& text) {
  Number value;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Stores `text` as a value of the flag's type; false where it is none.
bool StoreValue(const Flag& flag, const std::string& text, Config* config) {
  Config* owner = flag.MutableOwner(config);
  const google::protobuf::Reflection* reflection = owner->GetReflection();
  const auto store = [&](auto number, auto setter) {
    if (number.has_value()) (reflection->*setter)(owner, flag.field, *number);
    return number.has_value();
  };
  using google::protobuf::Reflection;
  switch (flag.field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return store(ParseNumber<int32_t>(text), &Reflection::SetInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return store(ParseNumber<int64_t>(text), &Reflection::SetInt64);
    case FieldDescriptor::CPPTYPE_UINT64:
      return store(ParseNumber<uint64_t>(text), &Reflection::SetUInt64);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return store(ParseNumber<float>(text), &Reflection::SetFloat);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return store(ParseNumber<double>(text), &Reflection::SetDouble);
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") return false;
      reflection->SetBool(owner, flag.field, text == "true");
      return true;
    case FieldDescriptor::CPPTYPE_STRING:
      if (flag.field->is_repeated()) {
        reflection->AddString(owner, flag.field, text);
      } else {
        reflection->SetString(owner, flag.field, text);
      }
      return true;
    default:
      return false;
  }
}

std::string ValueName(const Flag& flag) {
  if (!flag.options().value().empty()) return flag.options().value();
  if (flag.options().choice_size() > 0) {
    return fmt::format("{}", fmt::join(flag.options().choice(), "|"));
  }
  switch (flag.field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "X";
    case FieldDescriptor::CPPTYPE_STRING:
      return "TEXT";
    default:
      return "N";
  }
}

std::optional<double> NumberOf(const Flag& flag, const Config& config) {
  const Config& owner = flag.Owner(config);
  const google::protobuf::Reflection* reflection = owner.GetReflection();
  switch (flag.field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection->GetInt32(owner, flag.field);
    case FieldDescriptor::CPPTYPE_INT64:
      return static_cast<double>(reflection->GetInt64(owner, flag.field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return reflection->GetFloat(owner, flag.field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection->GetDouble(owner, flag.field);
    default:
      return std::nullopt;
  }
}

// A value was given for the field `name`, of any message of the command.
bool IsSet(const std::string& name, const Config& config) {
  const std::vector<Flag> flags = FlagsOf(config);
  return std::any_of(flags.begin(), flags.end(), [&](const Flag& flag) {
    return flag.field->name() == name && flag.IsSet(config);
  });
}

// The legal values, whether they came from a flag or from a file.
Status CheckValue(const Flag& flag, const Config& config) {
  const FlagOptions& options = flag.options();
  if (!flag.IsSet(config)) {
    if (!options.required() || IsSet(options.replaced_by(), config)) return OkStatus();
    return InvalidArgument("--{} {} is needed", flag.name, ValueName(flag));
  }
  if (options.choice_size() > 0) {
    const Config& owner = flag.Owner(config);
    const std::string value = owner.GetReflection()->GetString(owner, flag.field);
    if (std::find(options.choice().begin(), options.choice().end(), value) ==
        options.choice().end()) {
      return InvalidArgument("--{}: '{}' is none of {}", flag.name, value, ValueName(flag));
    }
  }
  const std::optional<double> number = NumberOf(flag, config);
  const double min = options.has_min() ? options.min() : -std::numeric_limits<double>::infinity();
  const double max = options.has_max() ? options.max() : std::numeric_limits<double>::infinity();
  if (number.has_value() && !(*number >= min && *number <= max)) {
    return InvalidArgument("--{}: {} is not in {} to {}", flag.name, *number, min, max);
  }
  return OkStatus();
}

Status CheckValues(const Config& config) {
  for (const Flag& flag : FlagsOf(config)) {
    TREELINE_RETURN_IF_ERROR(CheckValue(flag, config));
  }
  return OkStatus();
}

// Keeps the first error of a textproto, with its place.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  explicit FirstError(const std::string& source) : source_(source) {}
  void AddError(int line, int column, const std::string& message) override {
    if (!status_.ok()) return;
    // Protobuf counts from 0, editors from 1; -1 stands for no place at all.
    status_ = line < 0 ? InvalidArgument("{}: {}", source_, message)
                       : InvalidArgument("{}:{}:{}: {}", source_, line + 1, column + 1, message);
  }
  const Status& status() const { return status_; }

 private:
  const std::string& source_;
  Status status_;
};

// "--name", "--name=value" -> name, value.
struct Argument {
  std::string name;
  std::optional<std::string> value;
};

StatusOr<Argument> SplitArgument(const std::string& text) {
  if (text.size() < 3 || text.compare(0, 2, "--") != 0) {
    return InvalidArgument("'{}' is not a flag; flags look like --name value", text);
  }
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return Argument{text.substr(2), std::nullopt};
  return Argument{text.substr(2, equals - 2), text.substr(equals + 1)};
}

Status ReadConfigFile(const std::string& path, Config* config) {
  TREELINE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return ParseTextConfig(text, path, config);
}

// A repeated flag replaces the file's list instead of adding to it.
void MergeFlags(const Config& from_flags, Config* config) {
  for (const Flag& flag : FlagsOf(from_flags)) {
    if (!flag.field->is_repeated() || !flag.IsSet(from_flags)) continue;
    Config* owner = flag.MutableOwner(config);
    owner->GetReflection()->ClearField(owner, flag.field);
  }
  config->MergeFrom(from_flags);
}

std::string DefaultText(const Flag& flag) {
  const FieldDescriptor* field = flag.field;
  if (!field->has_default_value()) return "";
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return fmt::format(" (default {})", field->default_value_int32());
    case FieldDescriptor::CPPTYPE_INT64:
      return fmt::format(" (default {})", field->default_value_int64());
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return fmt::format(" (default {})", field->default_value_double());
    case FieldDescriptor::CPPTYPE_STRING:
      return fmt::format(" (default {})", field->default_value_string());
    default:
      return "";
  }
}

}  // namespace

Status ParseFlags(const std::vector<std::string>& args, Config* config) {
  const std::vector<Flag> flags = FlagsOf(*config);
  const std::unique_ptr<Config> from_flags(config->New());
  for (size_t i = 0; i < args.size(); ++i) {
    TREELINE_ASSIGN_OR_RETURN(Argument argument, SplitArgument(args[i]));
    const auto flag = std::find_if(flags.begin(), flags.end(),
                                   [&](const Flag& f) { return f.name == argument.name; });
    const bool is_config = argument.name == kConfigFlag;
    if (flag == flags.end() && !is_config) return UnknownFlag(argument.name, flags);
    if (!argument.value && !is_config && flag->is_bool()) argument.value = "true";
    if (!argument.value) {
      if (i + 1 == args.size()) return InvalidArgument("--{} needs a value", argument.name);
      argument.value = args[++i];
    }
    if (is_config) {
      TREELINE_RETURN_IF_ERROR(ReadConfigFile(*argument.value, config));
    } else if (!StoreValue(*flag, *argument.value, from_flags.get())) {
      return InvalidArgument("--{}: '{}' is not a value for {}", flag->name, *argument.value,
                             flag->is_bool() ? "true or false" : ValueName(*flag));
    }
  }
  MergeFlags(*from_flags, config);
  return CheckValues(*config);
}

std::string FlagsHelp(const Config& config) {
  std::vector<std::pair<std::string, std::string>> lines;
  for (const Flag& flag : FlagsOf(config)) {
    const std::string value = flag.is_bool() ? "" : " " + ValueName(flag);
    lines.emplace_back("--" + flag.name + value, flag.options().help() + DefaultText(flag));
  }
  lines.emplace_back("--config FILE", "read these settings from a textproto; flags win");
  size_t width = 0;
  for (const auto& [left, right] : lines) width = std::max(width, left.size());
  std::string help;
  for (const auto& [left, right] : lines) {
    help += fmt::format("  {:<{}}  {}\n", left, width, right);
  }
  return help;
}

Status ParseTextConfig(const std::string& text, const std::string& source, Config* config) {
  FirstError errors(source);
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  if (!parser.ParseFromString(text, config)) return errors.status();
  return OkStatus();
}

StatusOr<int64_t> ParseBytes(const std::string& text) {
  const size_t unit_at = std::min(text.find_first_not_of("0123456789"), text.size());
  const std::optional<int64_t> number = ParseNumber<int64_t>(text.substr(0, unit_at));
  const std::string unit = text.substr(unit_at);
  constexpr const char* kUnits[] = {"", "KiB", "MiB", "GiB", "TiB"};
  for (int i = 0; i < 5; ++i) {
    const int shift = 10 * i;
    if (number && unit == kUnits[i] && *number <= (std::numeric_limits<int64_t>::max() >> shift)) {
      return *number << shift;
    }
  }
  return InvalidArgument("'{}' is not a size; write bytes, or a number with KiB, MiB, GiB or TiB",
                         text);
}

}  // namespace treeline
