#include <cstring>
#include <vector>

#include "core/check.h"
#include "cuda/fat_binary.h"
#include "harness.h"

namespace gptoss::cuda {
namespace {

enum Kind : uint16_t { kPtx = 1, kCubin = 2 };
constexpr uint64_t kPlain = 0x11, kOne = 0x100011, kFamily = 0x1200011;

struct Entry {
  Kind kind;
  uint16_t major, minor;
  uint32_t architecture;
  uint64_t flags = kPlain;
};

template <class T>
void append(std::vector<uint8_t>& bytes, T value) {
  const size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  std::memcpy(&bytes[at], &value, sizeof(T));
}

std::vector<uint8_t> fat_binary(const std::vector<Entry>& entries) {
  constexpr uint32_t kHeaderBytes = 64, kPayloadBytes = 24;
  std::vector<uint8_t> out;
  append<uint32_t>(out, 0xba55ed50);
  append<uint16_t>(out, 1);
  append<uint16_t>(out, 16);
  append<uint64_t>(out, entries.size() * (kHeaderBytes + kPayloadBytes));
  for (const Entry& entry : entries) {
    append<uint16_t>(out, entry.kind);
    append<uint16_t>(out, 0x101);
    append<uint32_t>(out, kHeaderBytes);
    append<uint64_t>(out, kPayloadBytes);
    append<uint64_t>(out, 0);
    append(out, entry.minor);
    append(out, entry.major);
    append(out, entry.architecture);
    append<uint64_t>(out, 0);
    append(out, entry.flags);
    out.resize(out.size() + 16 + kPayloadBytes);
  }
  return out;
}

void expect_oldest(const std::vector<Entry>& entries, int capability, int version) {
  const int found = oldest_driver_for(fat_binary(entries), capability);
  GPTOSS_CHECK(found == version, "capability ", capability, ", ", found, ", expected ", version);
}

GPTOSS_TEST(a_fat_binary_says_which_driver_it_needs) {
  const std::vector<Entry> wheel = {{kCubin, 1, 7, 80},           {kCubin, 1, 7, 86},
                                    {kCubin, 1, 7, 89},           {kCubin, 1, 7, 90, kOne},
                                    {kCubin, 1, 8, 100, kFamily}, {kCubin, 1, 8, 110, kFamily},
                                    {kCubin, 1, 8, 120, kFamily}, {kPtx, 8, 0, 80}};
  for (const int capability : {80, 86, 87, 89, 90}) expect_oldest(wheel, capability, 12000);
  for (const int capability : {100, 103, 120, 121}) expect_oldest(wheel, capability, 12090);
  expect_oldest(wheel, 130, 12000);  // as PTX
  expect_oldest(wheel, 75, 0);

  // nvcc of CUDA 13 by itself.
  expect_oldest({{kCubin, 1, 8, 80}, {kPtx, 9, 0, 80}}, 86, 13000);
  expect_oldest({{kPtx, 9, 1, 80}}, 90, 13010);
  // Machine code is taken before PTX, and that of another generation not at all.
  expect_oldest({{kPtx, 8, 0, 80}, {kCubin, 1, 8, 90}}, 90, 13000);
  expect_oldest({{kPtx, 8, 0, 80}, {kCubin, 1, 8, 90}}, 80, 12000);
  expect_oldest({{kCubin, 1, 8, 120}, {kPtx, 8, 0, 80}}, 120, 12080);
  expect_oldest({{kCubin, 1, 7, 90, kOne}}, 100, 0);
  // The nearest.
  expect_oldest({{kCubin, 1, 8, 86}, {kCubin, 1, 7, 80}}, 86, 13000);
  expect_oldest({{kPtx, 8, 0, 80}, {kPtx, 8, 4, 90}}, 90, 12040);
  expect_oldest({{kPtx, 8, 5, 80}}, 80, 12050);
  expect_oldest({{kPtx, 8, 8, 80}}, 80, 12090);
}

GPTOSS_TEST(fat_binaries_are_told_apart_and_damage_is_found) {
  std::vector<uint8_t> images = fat_binary({{kPtx, 8, 0, 80}});
  const size_t size = images.size();
  const std::vector<uint8_t> second = fat_binary({});
  images.insert(images.end(), second.begin(), second.end());
  GPTOSS_CHECK(first_fat_binary(images).size() == size);
  GPTOSS_CHECK(first_fat_binary(std::span(images).subspan(size)).size() == second.size());
  GPTOSS_CHECK_THROWS(BackendError, first_fat_binary(std::span(images).first(size - 1)));
  GPTOSS_CHECK_THROWS(BackendError, first_fat_binary(std::span(images).subspan(8)));
  GPTOSS_CHECK_THROWS(BackendError, first_fat_binary(std::span(images).first(8)));
}

}  // namespace
}  // namespace gptoss::cuda
