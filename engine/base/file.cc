#include "engine/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace treeline {
namespace {

// Closes a file descriptor at the end of a scope.
struct FileDescriptor {
  int fd;
  ~FileDescriptor() {
    if (fd >= 0) close(fd);
  }
};

Status ErrnoStatus(const std::string& path, const char* action) {
  const int error = errno;
  const StatusCode code = error == ENOENT ? StatusCode::kNotFound : StatusCode::kInternal;
  return MakeStatus(code, "{}: cannot {}: {}", path, action, std::strerror(error));
}

// Opens a regular file and tells its size.
StatusOr<size_t> OpenRegular(const std::string& path, FileDescriptor& file) {
  file.fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file.fd < 0) return ErrnoStatus(path, "open");
  struct stat info;
  if (fstat(file.fd, &info) != 0) return ErrnoStatus(path, "stat");
  if (!S_ISREG(info.st_mode)) return InvalidArgument("{}: not a regular file", path);
  return static_cast<size_t>(info.st_size);
}

}  // namespace

bool FileExists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

StatusOr<std::string> ReadFile(const std::string& path) {
  FileDescriptor file{-1};
  TREELINE_ASSIGN_OR_RETURN(size_t size, OpenRegular(path, file));
  if (size > kMaxReadBytes) {
    return InvalidArgument("{}: {} bytes; at most {} are read", path, size, kMaxReadBytes);
  }
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = read(file.fd, text.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(path, "read");
    if (n == 0) break;  // The file shrank while we read it.
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return text;
}

StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  FileDescriptor file{-1};
  TREELINE_ASSIGN_OR_RETURN(size_t size, OpenRegular(path, file));
  if (size == 0) return MappedFile(nullptr, 0);
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) return ErrnoStatus(path, "map");
  return MappedFile(static_cast<const std::byte*>(data), size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace treeline
