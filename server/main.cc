#include <string>
#include <vector>

#include "server/cli.h"

int main(int argc, char** argv) {
  return treeline::RunCommandLine(std::vector<std::string>(argv + 1, argv + argc));
}
