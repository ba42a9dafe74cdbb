// The commands of the `treeline` binary: picks one, parses its flags, runs it.
#ifndef TREELINE_SERVER_CLI_H_
#define TREELINE_SERVER_CLI_H_

#include <string>
#include <vector>

namespace treeline {

// `args` without the program's name. Returns the exit status: 0, 1 where the command failed, 2
// where it was called wrongly (the reason goes to stderr).
int RunCommandLine(const std::vector<std::string>& args);

}  // namespace treeline

#endif  // TREELINE_SERVER_CLI_H_
