// Where complete pages of the KV cache go that are to outlive it, and where they come from.
//
// A store knows texts, names of pages in them, and bytes; which pages are worth keeping and where
// they belong is the cache's affair. All its methods are called in the thread that calls
// Engine::step(), and return at once. What they ask for is answered later, from any thread: find()
// with Engine::deliver(), offer() with Engine::want().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace gptoss {

// A page of a text: its 64 tokens from 64 * page on, in the layers of a KV group.
struct PageRef {
  int page;
  int group;

  bool operator==(const PageRef&) const = default;
};

// Contents of a page in host memory; none where data is null.
struct PageBytes {
  std::unique_ptr<uint8_t[]> data;
  size_t size = 0;
};

// A part of what a store has of a text. Pages of group 0 come in ascending order and before all
// others.
struct FoundPages {
  int64_t sequence;  // that it was asked for
  std::vector<PageRef> refs;
  std::vector<std::span<const uint8_t>> bytes;  // by refs
  bool is_last;
  std::shared_ptr<const void> owner;  // keeps the bytes alive
};

// Pages that a store lacks, and has room for now.
struct WantedPages {
  std::vector<int32_t> tokens;
  uint64_t salt;
  std::vector<PageRef> refs;
};

class PageStore {
 public:
  virtual ~PageStore() = default;

  // What is kept of a prompt, from page `first_page` on? Answered with one delivery or more, of
  // which the last says so.
  virtual void find(int64_t sequence, std::span<const int32_t> prompt, uint64_t salt,
                    int first_page) = 0;
  // A delivery has been used.
  virtual void taken() = 0;
  // The cache has these pages of a text.
  virtual void offer(std::span<const int32_t> tokens, uint64_t salt,
                     std::span<const PageRef> refs) = 0;
  // What a want() asked for, in that order; without data what the cache has evicted since.
  virtual void put(std::vector<PageBytes> pages) = 0;
};

}  // namespace gptoss
