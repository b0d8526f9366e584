// Limits of control groups, and cores of two CPUs, in trees of files that stand for the system's.
#include <filesystem>
#include <fstream>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "harness.h"
#include "platform/linux_limits.h"
#include "platform/platform.h"

namespace gptoss::test {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

class FakeSystem {
 public:
  FakeSystem()
      : root_(std::filesystem::temp_directory_path() /
              ("gptoss_system_" + std::to_string(platform::process_id()))) {
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
  }
  ~FakeSystem() { std::filesystem::remove_all(root_); }
  FakeSystem(const FakeSystem&) = delete;
  FakeSystem& operator=(const FakeSystem&) = delete;

  void write(const std::string& path, const std::string& content) const {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << content << '\n';
  }
  std::string root() const { return root_.string(); }
  int cpus() const { return platform::cgroup_cpus(root(), 99); }
  int64_t memory() const { return platform::cgroup_memory(root()); }

 private:
  std::filesystem::path root_;
};

GPTOSS_TEST(a_system_without_groups_has_no_limits) {
  const FakeSystem system;
  GPTOSS_CHECK(system.cpus() == 99 && system.memory() == kNone);
  GPTOSS_CHECK(platform::threads_for_cpus(system.root(), {0, 1, 2}) == 3);
}

GPTOSS_TEST(limits_of_version_2_hold_for_the_groups_below) {
  const FakeSystem system;
  system.write("proc/self/cgroup", "0::/user.slice/run-1.scope");
  const std::string top = "sys/fs/cgroup/";
  system.write(top + "user.slice/cpu.max", "250000 100000");
  system.write(top + "user.slice/run-1.scope/cpu.max", "max 100000");
  GPTOSS_CHECK(system.cpus() == 3, system.cpus());
  system.write(top + "user.slice/run-1.scope/cpu.max", "50000 100000");
  GPTOSS_CHECK(system.cpus() == 1, system.cpus());

  system.write(top + "user.slice/memory.max", "max");
  system.write(top + "user.slice/memory.current", "7000");
  system.write(top + "user.slice/run-1.scope/memory.current", "900");
  GPTOSS_CHECK(system.memory() == kNone);
  system.write(top + "user.slice/run-1.scope/memory.max", "1000");
  GPTOSS_CHECK(system.memory() == 100, system.memory());
  // The cache gives way; what is locked or of no file does not.
  system.write(top + "user.slice/run-1.scope/memory.stat",
               "anon 200\nfile 700\ninactive_anon 200\nactive_file 400\ninactive_file 250");
  GPTOSS_CHECK(system.memory() == 750, system.memory());
  system.write(top + "user.slice/run-1.scope/memory.high", "800");
  GPTOSS_CHECK(system.memory() == 550, system.memory());
  system.write(top + "user.slice/memory.max", "7001");
  GPTOSS_CHECK(system.memory() == 1, system.memory());
}

GPTOSS_TEST(limits_of_version_1_are_each_controllers) {
  const FakeSystem system;
  system.write("proc/self/cgroup",
               "9:name=systemd:/\n4:memory:/docker/12\n2:cpu,cpuacct:/docker/12\n0::/");
  const std::string memory = "sys/fs/cgroup/memory/";
  system.write(memory + "memory.limit_in_bytes", "9223372036854771712");
  system.write(memory + "memory.usage_in_bytes", "5000");
  GPTOSS_CHECK(system.memory() == kNone);
  system.write(memory + "docker/12/memory.limit_in_bytes", "3000");
  system.write(memory + "docker/12/memory.usage_in_bytes", "2900");
  system.write(memory + "docker/12/memory.stat",
               "active_file 1\ntotal_active_file 500\ntotal_inactive_file 1000");
  GPTOSS_CHECK(system.memory() == 1600, system.memory());

  system.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1");
  system.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
  GPTOSS_CHECK(system.cpus() == 99);
  system.write("sys/fs/cgroup/cpu/docker/12/cpu.cfs_quota_us", "400000");
  system.write("sys/fs/cgroup/cpu/docker/12/cpu.cfs_period_us", "100000");
  GPTOSS_CHECK(system.cpus() == 4, system.cpus());
}

// The path is the host's, and the container's own group is mounted where the root would be.
GPTOSS_TEST(limits_of_a_container_lie_at_the_root) {
  const FakeSystem system;
  system.write("proc/self/cgroup", "4:memory:/docker/12\n0::/../outside");
  system.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "3000");
  system.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "4000");
  GPTOSS_CHECK(system.memory() == 0, system.memory());
  system.write("sys/fs/cgroup/cpu.max", "150000 100000");
  GPTOSS_CHECK(system.cpus() == 2, system.cpus());
}

// `cores` of two CPUs each, numbered as Linux does: first one of each, then the siblings; then
// single ones, as efficiency cores are.
void write_cores(const FakeSystem& system, int cores, int single, const std::string& file) {
  const auto write = [&](int cpu, const std::string& siblings) {
    system.write("sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/" + file,
                 siblings);
  };
  for (int cpu = 0; cpu < 2 * cores; ++cpu) {
    write(cpu, std::to_string(cpu % cores) + "," + std::to_string(cpu % cores + cores));
  }
  for (int cpu = 2 * cores; cpu < 2 * cores + single; ++cpu) write(cpu, std::to_string(cpu));
}

GPTOSS_TEST(siblings_share_a_thread_where_there_are_several_cores) {
  for (const char* file : {"core_cpus_list", "thread_siblings_list"}) {
    const FakeSystem system;
    write_cores(system, 6, 8, file);
    const auto threads = [&](std::vector<int> cpus) {
      return platform::threads_for_cpus(system.root(), cpus);
    };
    std::vector<int> all(20);
    std::iota(all.begin(), all.end(), 0);
    GPTOSS_CHECK(threads(all) == 14);
    GPTOSS_CHECK(threads({0, 1, 2, 3, 4, 5}) == 6);
    GPTOSS_CHECK(threads({0, 1, 2, 3, 6, 7, 8, 9}) == 4);
    GPTOSS_CHECK(threads({12, 13, 14, 15, 16}) == 5);
    // Few cores: all CPUs.
    GPTOSS_CHECK(threads({0, 6}) == 2);
    GPTOSS_CHECK(threads({0, 1, 2, 6, 7, 8}) == 6);
    GPTOSS_CHECK(threads({3}) == 1);
  }
}

}  // namespace
}  // namespace gptoss::test
