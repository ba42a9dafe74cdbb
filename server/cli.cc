#include "server/cli.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <iostream>

#include "engine/base/status.h"
#include "proto/config.pb.h"
#include "server/bench.h"
#include "server/eval.h"
#include "server/flags.h"
#include "server/generate.h"
#include "server/inspect.h"
#include "server/open_model.h"
#include "server/serve.h"
#include "server/version.h"

namespace treeline {

namespace {

constexpr int kFailed = 1;
constexpr int kMisused = 2;

// What is logged goes to stderr: stdout is for results.
void SetUpLog(const std::string& level) {
  auto logger = spdlog::stderr_color_mt("treeline");
  logger->set_level(spdlog::level::from_str(level));
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
  spdlog::set_default_logger(std::move(logger));
}

Status RunServe(const ServeConfig& config) {
  SetUpLog(config.log_level());
  const Status status = Serve(config, [&] { return OpenModel(config); });
  if (status.code() != StatusCode::kCancelled) return status;
  spdlog::info("{}", Message(status));
  std::_Exit(0);  // The load still runs, on what cleaning up would take away.
}

Status RunGenerate(const GenerateConfig& config) {
  SetUpLog("warning");
  TREELINE_ASSIGN_OR_RETURN(LoadedModel model, OpenModel(config.engine()));
  return Generate(config, std::move(model), std::cin, std::cout);
}

Status RunEval(const EvalConfig& config) {
  SetUpLog("info");
  TREELINE_ASSIGN_OR_RETURN(LoadedModel model, OpenModel(config));
  return Eval(config, std::move(model), std::cout, std::cerr);
}

Status RunInspect(const InspectConfig& config) {
  SetUpLog("warning");
  return Inspect(config, std::cout);
}

Status RunBench(const BenchConfig& config) {
  SetUpLog("warning");
  return Bench(config, std::cout, std::cerr);
}

struct Command {
  std::string name;
  std::string help;
  std::function<Status(const std::vector<std::string>& args)> parse;
  std::function<Status()> run;
  std::function<std::string()> flags;
};

template <typename Config>
Command MakeCommand(const std::string& name, const std::string& help,
                    Status (*run)(const Config&)) {
  auto config = std::make_shared<Config>();
  return {name, help,
          [config](const std::vector<std::string>& args) { return ParseFlags(args, config.get()); },
          [config, run] { return run(*config); }, [config] { return FlagsHelp(*config); }};
}

std::vector<Command> Commands() {
  return {
      MakeCommand("serve", "answer requests over HTTP (OpenAI's API)", RunServe),
      MakeCommand("generate", "answer one prompt at the terminal", RunGenerate),
      MakeCommand("eval", "measure how well a model predicts a text or answers a task", RunEval),
      MakeCommand("bench", "measure how fast a model runs here", RunBench),
      MakeCommand("inspect", "tell what a model's folder holds", RunInspect)};
}

std::string UsageText(const std::vector<Command>& commands) {
  std::string usage = "usage: treeline COMMAND [--flag value ...]\n\ncommands:\n";
  for (const Command& command : commands) {
    usage += fmt::format("  {:<10}{}\n", command.name, command.help);
  }
  return usage + "\ntreeline COMMAND --help lists its flags; treeline --version the version\n";
}

bool Contains(const std::vector<std::string>& args, const std::string& word) {
  return std::find(args.begin(), args.end(), word) != args.end();
}

int RunCommand(const Command& command, const std::vector<std::string>& args) {
  if (Contains(args, "--help")) {
    std::cout << fmt::format("treeline {}: {}\n\n{}", command.name, command.help, command.flags());
    return 0;
  }
  const Status parsed = command.parse(args);
  if (!parsed.ok()) {
    std::cerr << fmt::format("treeline {}: {}\n", command.name, Message(parsed));
    return kMisused;
  }
  const Status status = command.run();
  if (status.ok()) return 0;
  std::cerr << fmt::format("treeline {}: {}\n", command.name, Message(status));
  return kFailed;
}

}  // namespace

int RunCommandLine(const std::vector<std::string>& args) {
  const std::vector<Command> commands = Commands();
  const std::string name = args.empty() ? "" : args[0];
  if (name == "--version" || name == "version") {
    std::cout << "treeline " << kVersion << "\n";
    return 0;
  }
  if (name == "--help" || name == "help") {
    std::cout << UsageText(commands);
    return 0;
  }
  for (const Command& command : commands) {
    if (command.name == name) return RunCommand(command, {args.begin() + 1, args.end()});
  }
  if (!name.empty()) std::cerr << fmt::format("treeline: unknown command '{}'\n\n", name);
  std::cerr << UsageText(commands);
  return kMisused;
}

}  // namespace treeline
