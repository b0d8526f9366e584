// What every system must do alike: memory, mapped files, waiting.
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "core/check.h"
#include "core/mapped_file.h"
#include "core/watched_word.h"
#include "harness.h"
#include "platform/platform.h"

namespace gptoss::test {
namespace {

// A file that is removed at the end, of a name that is not ASCII.
class TestFile {
 public:
  explicit TestFile(const std::string& content)
      : path_(std::filesystem::temp_directory_path() /
              (u8"gptoss_größe_" + name_of(platform::process_id()))) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~TestFile() { std::filesystem::remove(path_); }

  std::string path() const {
    const std::u8string text = path_.u8string();
    return {text.begin(), text.end()};
  }

 private:
  static std::u8string name_of(int64_t number) {
    const std::string digits = std::to_string(number);
    return {digits.begin(), digits.end()};
  }
  std::filesystem::path path_;
};

GPTOSS_TEST(a_file_is_mapped_as_it_is) {
  std::string content(3 * static_cast<size_t>(platform::page_bytes()) + 7, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i % 251);
  const TestFile file(content);
  const MappedFile mapped(file.path());
  GPTOSS_CHECK(mapped.size_bytes() == static_cast<int64_t>(content.size()));
  GPTOSS_CHECK(std::memcmp(mapped.data(), content.data(), content.size()) == 0);
  platform::drop_file_pages(mapped.data(), mapped.size_bytes());
  GPTOSS_CHECK(std::memcmp(mapped.data(), content.data(), content.size()) == 0);
  mapped.check();
}

GPTOSS_TEST(a_file_that_cannot_be_mapped_is_an_error) {
  const TestFile empty("");
  for (const std::string& path : {empty.path(), empty.path() + ".not_there"}) {
    std::string message;
    try {
      const MappedFile mapped(path);
    } catch (const BackendError& error) {
      message = error.what();
    }
    GPTOSS_CHECK(message.starts_with("cannot map " + path), message);
  }
}

GPTOSS_TEST(lazy_memory_is_zero_and_keeps_what_is_written) {
  const int64_t size = 9 * platform::page_bytes() + 5;
  LazyMemory memory(size);
  memory.commit(0, 10);
  memory.commit(size - 3, 3);
  GPTOSS_CHECK(memory.data()[9] == 0 && memory.data()[size - 1] == 0);
  memory.data()[9] = 1;
  memory.data()[size - 1] = 2;
  memory.commit(0, size);
  int sum = 0;
  for (int64_t i = 0; i < size; ++i) sum += memory.data()[i];
  GPTOSS_CHECK(sum == 3);
  LazyMemory moved = std::move(memory);
  GPTOSS_CHECK(moved.data()[9] == 1 && moved.size_bytes() == size);
  GPTOSS_CHECK(LazyMemory(0).data() == nullptr);
}

GPTOSS_TEST(more_address_space_than_there_is_is_out_of_memory) {
  GPTOSS_CHECK_THROWS(OutOfMemory, LazyMemory(int64_t{1} << 60));
}

// Far longer apart than a thread watches before it sleeps.
GPTOSS_TEST(a_watched_word_wakes_sleepers) {
  WatchedWord word;
  std::atomic<uint32_t> seen{0};
  std::vector<std::thread> watchers;
  for (int i = 0; i < 4; ++i) {
    watchers.emplace_back([&] {
      for (uint32_t old = 0; old < 20; old = word.load()) {
        word.wait_for_change(old);
        ++seen;
      }
    });
  }
  for (uint32_t value = 1; value <= 20; ++value) {
    std::this_thread::sleep_for(std::chrono::milliseconds(value % 3));
    if (value % 2 == 0) word.store(value);
    if (value % 2 == 1) word.add(1);
  }
  for (std::thread& watcher : watchers) watcher.join();
  GPTOSS_CHECK(word.load() == 20 && seen >= 4 && seen <= 80, seen.load());
}

GPTOSS_TEST(a_word_that_has_changed_is_not_waited_for) {
  const std::atomic<uint32_t> word{7};
  platform::wait(word, 6);
  platform::wake_all(word);
}

GPTOSS_TEST(the_system_says_what_it_has) {
  GPTOSS_CHECK(platform::usable_cpus() >= 1);
  GPTOSS_CHECK(platform::available_memory() > 0);
  GPTOSS_CHECK(platform::page_bytes() >= 4096);
  GPTOSS_CHECK(platform::process_id() > 0);
}

}  // namespace
}  // namespace gptoss::test
