#include <algorithm>
#include <cstring>
#include <functional>
#include <string_view>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launch_queue.h"

namespace treeline::cuda {
namespace {

constexpr int kFewestLaunches = 8;  // Of a graph.
// Of which some are only known by their hash.
constexpr size_t kMostGraphs = 512;

}  // namespace

LaunchQueue::~LaunchQueue() {
  for (auto& [hash, graph] : graphs_) {
    if (graph.graph != nullptr) cudaGraphExecDestroy(graph.graph);
  }
}

std::byte* LaunchQueue::Add(const KernelLaunch& launch, CUstream_st* handle) {
  if (count_ == most_) {
    Flush(handle);
    most_ = kMostLaunches;
  }
  const size_t at = launches_.size();
  launches_.resize(at + sizeof launch + launch.argument_bytes);
  std::memcpy(launches_.data() + at, &launch, sizeof launch);
  ++count_;
  return launches_.data() + at + sizeof launch;
}

void LaunchQueue::Flush(CUstream_st* handle) {
  if (count_ == 0) return;
  if (stream_.ok() && (count_ < kFewestLaunches || !LaunchGraph(handle))) MakeLaunches(handle);
  launches_.clear();
  count_ = 0;
}

void LaunchQueue::MakeLaunches(CUstream_st* handle) {
  for (const std::byte* at = launches_.data(); at != launches_.data() + launches_.size();) {
    KernelLaunch launch;
    std::memcpy(&launch, at, sizeof launch);
    at += sizeof launch;
    if (!launch.make(launch, at, handle, stream_)) return;
    at += launch.argument_bytes;
  }
}

bool LaunchQueue::LaunchGraph(CUstream_st* handle) {
  if (!builds_graphs_) return false;
  const size_t hash = std::hash<std::string_view>{}(
      {reinterpret_cast<const char*>(launches_.data()), launches_.size()});
  const auto [found, is_new] = graphs_.try_emplace(hash);
  Graph& graph = found->second;
  graph.last_use = ++uses_;
  if (is_new) {
    if (graphs_.size() > kMostGraphs) DropOldest(handle);
    return false;
  }
  if (graph.graph == nullptr && !Build(handle, graph)) return false;
  if (graph.launches != launches_) return false;
  return Check(stream_, "cudaGraphLaunch", cudaGraphLaunch(graph.graph, handle));
}

bool LaunchQueue::Build(CUstream_st* handle, Graph& graph) {
  cudaGraph_t captured = nullptr;
  cudaError_t code = cudaStreamBeginCapture(handle, cudaStreamCaptureModeThreadLocal);
  if (code == cudaSuccess) {
    MakeLaunches(handle);
    code = cudaStreamEndCapture(handle, &captured);
  }
  if (code == cudaSuccess) code = cudaGraphInstantiate(&graph.graph, captured, 0);
  if (captured != nullptr) cudaGraphDestroy(captured);
  if (code == cudaSuccess) {
    graph.launches = launches_;
    return true;
  }
  // Memory may be short. Kernels can be launched without.
  cudaGetLastError();
  graph.graph = nullptr;
  builds_graphs_ = false;
  return false;
}

void LaunchQueue::DropOldest(CUstream_st* handle) {
  const auto oldest = std::min_element(
      graphs_.begin(), graphs_.end(),
      [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; });
  if (oldest->second.graph != nullptr) {
    cudaStreamSynchronize(handle);  // It may be running; an error of it shows later.
    cudaGraphExecDestroy(oldest->second.graph);
  }
  graphs_.erase(oldest);
}

}  // namespace treeline::cuda
