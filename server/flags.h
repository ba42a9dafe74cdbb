// Command-line flags and configuration files as protobuf messages: the fields of a
// message (and of the messages within it) are the flags of a command, their options
// (proto/config.proto) the help and the legal values. Flags win over the file.
#ifndef TREELINE_SERVER_FLAGS_H_
#define TREELINE_SERVER_FLAGS_H_

#include <google/protobuf/message.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/status.h"

namespace treeline {

// Fills *config from `args` (what follows the command's name): --name=value, --name value, or
// --name alone for booleans; --config FILE reads a textproto first. INVALID_ARGUMENT naming the
// flag (or file and line) for unknown names, bad or missing values; an unknown flag comes with
// the nearest known one.
Status ParseFlags(const std::vector<std::string>& args, google::protobuf::Message* config);

// The flags of `config` with their defaults, one a line.
std::string FlagsHelp(const google::protobuf::Message& config);

// Replaces *config by the textproto `text`. `source` names it in errors: "x.textproto:3:7: ...".
Status ParseTextConfig(const std::string& text, const std::string& source,
                       google::protobuf::Message* config);

// Bytes of "1048576", "512MiB", "8GiB" (KiB, MiB, GiB, TiB). INVALID_ARGUMENT for anything else.
StatusOr<int64_t> ParseBytes(const std::string& text);

}  // namespace treeline

#endif  // TREELINE_SERVER_FLAGS_H_
