#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "core/check.h"
#include "core/mapped_file.h"
#include "engine/engine.h"
#include "harness.h"
#include "testing/fake_backend.h"

namespace gptoss::test {
namespace {

const int64_t kPage = sysconf(_SC_PAGE_SIZE);

// A file of ones that is removed at the end.
class OnesFile {
 public:
  explicit OnesFile(int64_t size_bytes) {
    std::array<char, 32> name = {"/tmp/gptoss_test_XXXXXX"};
    close(mkstemp(name.data()));
    path_ = name.data();
    write(path_, size_bytes);
  }
  ~OnesFile() { unlink(path_.c_str()); }

  const std::string& path() const { return path_; }
  void resize(int64_t size_bytes) const { GPTOSS_CHECK(truncate(path_.c_str(), size_bytes) == 0); }
  // Puts another file of ones in its place.
  void replace(int64_t size_bytes) const {
    write(path_ + ".new", size_bytes);
    GPTOSS_CHECK(rename((path_ + ".new").c_str(), path_.c_str()) == 0);
  }

 private:
  static void write(const std::string& path, int64_t size_bytes) {
    std::ofstream(path, std::ios::binary) << std::string(static_cast<size_t>(size_bytes), '\1');
  }
  std::string path_;
};

int64_t sum(const MappedFile& file) {
  const volatile uint8_t* const data = file.data();
  int64_t total = 0;
  for (int64_t i = 0; i < file.size_bytes(); ++i) total += data[i];
  return total;
}

bool is_emulated() { return std::getenv("GPTOSS_TEST_EMULATED") != nullptr; }

GPTOSS_TEST(what_does_not_shorten_a_mapped_file_is_no_error) {
  const int64_t size = 5 * kPage + 100;
  const OnesFile file(size);
  const MappedFile mapped(file.path());
  GPTOSS_CHECK(sum(mapped) == size);
  mapped.check();
  GPTOSS_CHECK(utimensat(AT_FDCWD, file.path().c_str(), nullptr, 0) == 0);
  mapped.check();
  file.resize(9 * kPage);
  mapped.check();
  file.replace(10);
  mapped.check();
  unlink(file.path().c_str());
  mapped.check();
  GPTOSS_CHECK(sum(mapped) == size);
}

GPTOSS_TEST(a_mapped_file_that_shrinks_is_an_error_and_its_bytes_are_zeros) {
  if (is_emulated()) return;
  for (const int64_t left : {int64_t{0}, int64_t{1}, kPage - 1, kPage, 2 * kPage + 7, 4 * kPage}) {
    const OnesFile file(5 * kPage + 100);
    const MappedFile mapped(file.path());
    file.resize(left);
    GPTOSS_CHECK_THROWS(BackendError, mapped.check());
    GPTOSS_CHECK(sum(mapped) == left, left);
    GPTOSS_CHECK(sum(mapped) == left, left);
    file.resize(5 * kPage + 100);  // what was there is lost all the same
    GPTOSS_CHECK_THROWS(BackendError, mapped.check());
  }
}

// The last page of a file reads as zeros behind its end, without a signal.
GPTOSS_TEST(a_mapped_file_that_loses_part_of_a_page_is_an_error) {
  const OnesFile file(5 * kPage + 100);
  const MappedFile mapped(file.path());
  file.resize(5 * kPage + 99);
  GPTOSS_CHECK_THROWS(BackendError, mapped.check());
}

// ThreadSanitizer takes the handler's mmap(), which gives the readers zeros, for a racing write.
#if !defined(__SANITIZE_THREAD__)
GPTOSS_TEST(a_mapped_file_shrinks_under_many_readers) {
  if (is_emulated()) return;
  for (int round = 0; round < 20; ++round) {
    const int64_t size = 64 * kPage;
    const OnesFile file(size);
    const MappedFile mapped(file.path());
    const OnesFile untouched(size);
    const MappedFile other(untouched.path());
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0};
    std::vector<std::thread> readers;
    for (int i = 0; i < 4; ++i) {
      readers.emplace_back([&] {
        while (!stop) {
          const int64_t total = sum(mapped);
          wrong += total < round * kPage || total > size || sum(other) != size;
        }
      });
    }
    file.resize(round * kPage);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    stop = true;
    for (std::thread& reader : readers) reader.join();
    GPTOSS_CHECK(wrong == 0);
    GPTOSS_CHECK_THROWS(BackendError, mapped.check());
    other.check();
  }
}
#endif

GPTOSS_TEST(only_files_that_are_still_mapped_are_looked_after) {
  const OnesFile kept(kPage), dropped(kPage);
  MappedFiles files;
  const auto mapped = std::make_shared<const MappedFile>(kept.path());
  files.add(mapped);
  files.add(std::make_shared<const MappedFile>(dropped.path()));
  dropped.resize(0);
  files.check();
  GPTOSS_CHECK(files.guard([] { return 7; }) == 7);
  kept.resize(0);
  GPTOSS_CHECK_THROWS(BackendError, files.check());
  bool called = false;
  GPTOSS_CHECK_THROWS(BackendError, files.guard([&] { return called = true; }));
  GPTOSS_CHECK(!called);
}

GPTOSS_TEST(what_was_computed_while_a_file_shrank_is_not_returned) {
  MappedFiles files;
  const OnesFile file(3 * kPage);
  const auto mapped = std::make_shared<const MappedFile>(file.path());
  files.add(mapped);
  GPTOSS_CHECK(files.guard([&] { return sum(*mapped); }) == 3 * kPage);
  GPTOSS_CHECK_THROWS(std::logic_error, files.guard([&]() -> int { throw std::logic_error(""); }));
  GPTOSS_CHECK_THROWS(BackendError, files.guard([&] {
    file.resize(kPage);
    return 1;
  }));
  const OnesFile again(kPage);
  const auto other = std::make_shared<const MappedFile>(again.path());
  MappedFiles of_other;
  of_other.add(other);
  GPTOSS_CHECK_THROWS(BackendError, of_other.guard([&]() -> int {
    again.resize(0);
    throw std::logic_error("what came of the zeros");
  }));
}

GPTOSS_TEST(what_is_let_go_of_while_it_is_read_is_looked_after_still) {
  MappedFiles files;
  const OnesFile file(3 * kPage);
  auto mapped = std::make_shared<const MappedFile>(file.path());
  files.add(mapped);
  GPTOSS_CHECK_THROWS(BackendError, files.guard([&] {
    file.resize(kPage);
    mapped.reset();
    return 1;
  }));
  files.check();
}

// Some backends read all weights when they are prepared, and let go of the file.
GPTOSS_TEST(an_engine_whose_weights_shrank_is_not_made) {
  const OnesFile file(kPage);
  const auto mapped = std::make_shared<const MappedFile>(file.path());
  ModelConfig config{};
  config.vocab_size = 97;
  config.n_layers = 1;
  config.max_position_embeddings = 128;
  config.is_window_layer = {false};
  const testing::FakeOptions fake = {.groups = {{.window = 0, .n_layers = 1}}};
  EngineOptions options{.context_length = 128};
  options.files.add(mapped);
  const auto make = [&] {
    return Engine(std::make_unique<testing::FakeBackend>(fake), config, {}, options);
  };
  make();
  file.resize(0);
  GPTOSS_CHECK_THROWS(BackendError, make());
}

GPTOSS_TEST(a_closed_descriptor_is_no_shrunk_file) {
  const OnesFile file(kPage);
  const OnesFile empty(0);
  const int next = open("/dev/null", O_RDONLY);
  close(next);  // the number that the mapped file gets
  const MappedFile mapped(file.path());
  close(next);
  mapped.check();
  GPTOSS_CHECK(open(empty.path().c_str(), O_RDONLY) == next);
  mapped.check();
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// How a child ends that reads behind the end of a file that nobody looks after.
int child_status(void (*prepare)()) {
  const OnesFile file(kPage);
  const MappedFile mapped(file.path());
  const pid_t child = fork();
  if (child == 0) {
    prepare();
    const OnesFile other(kPage);
    const MappedFile installs_the_handler(other.path());
    const int fd = open(file.path().c_str(), O_RDONLY);
    const auto* const data = static_cast<const volatile uint8_t*>(
        mmap(nullptr, static_cast<size_t>(kPage), PROT_READ, MAP_SHARED, fd, 0));
    file.resize(0);
    _exit(data[0]);
  }
  int status = 0;
  GPTOSS_CHECK(waitpid(child, &status, 0) == child);
  return status;
}

GPTOSS_TEST(other_bus_errors_are_left_to_others) {
  if (is_emulated()) return;
  int status = child_status([] {});
  GPTOSS_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, status);
  status = child_status([] { signal(SIGBUS, [](int) { _exit(42); }); });
  GPTOSS_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42, status);
  status = child_status([] { signal(SIGBUS, SIG_IGN); });
  GPTOSS_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, status);
}
#endif

}  // namespace
}  // namespace gptoss::test
