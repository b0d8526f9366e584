#include "emulator/ptx/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace gptoss::emulator {
namespace {

// Reserved, never backed: large enough that addresses need not be used twice.
constexpr uint64_t kRegionBytes = 1ull << 40;
constexpr uint64_t kGapBytes = 4096;

uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace

Memory::Memory(uint64_t capacity_bytes) : capacity_(capacity_bytes) {
  void* region = MAP_FAILED;
  for (uint64_t bytes = kRegionBytes; region == MAP_FAILED && bytes >= 1ull << 30; bytes /= 4) {
    region = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    region_end_ = bytes;
  }
  if (region == MAP_FAILED) throw std::runtime_error("[emulator] no address space for a device");
  region_ = reinterpret_cast<uint64_t>(region);
  region_end_ += region_;
  next_ = align_up(region_, 4096) + kGapBytes;
}

Memory::~Memory() { munmap(reinterpret_cast<void*>(region_), region_end_ - region_); }

uint64_t Memory::allocate(uint64_t size, std::string name, uint64_t alignment) {
  if (size == 0 || size > capacity_ - used_) return 0;
  const uint64_t base = align_up(next_, std::max<uint64_t>(alignment, 256));
  if (base + size + kGapBytes > region_end_) return 0;
  auto allocation = std::make_unique<Allocation>();
  allocation->base = base;
  allocation->size = size;
  allocation->name = std::move(name);
  allocation->owned.assign(size, kPoison);
  allocation->bytes = allocation->owned.data();
  allocation->written.assign(size, 0);
  allocation->shadow.resize(size + Allocation::kShadowAlignment);
  allocation->shadow.begin_launch(launch_);
  allocations_[base] = std::move(allocation);
  next_ = base + size + kGapBytes;
  used_ += size;
  return base;
}

bool Memory::free(uint64_t address) {
  const auto found = allocations_.find(address);
  if (found == allocations_.end() || found->second->is_freed) return false;
  Allocation& allocation = *found->second;
  if (allocation.is_host) {
    allocations_.erase(found);
    return true;
  }
  used_ -= allocation.size;
  allocation.is_freed = true;
  allocation.owned = {};
  allocation.written = {};
  allocation.bytes = nullptr;
  allocation.shadow = Shadow();
  return true;
}

void Memory::map_host(void* bytes, uint64_t size, std::string name, bool is_constant) {
  auto allocation = std::make_unique<Allocation>();
  allocation->base = reinterpret_cast<uint64_t>(bytes);
  allocation->size = size;
  allocation->name = std::move(name);
  allocation->bytes = static_cast<uint8_t*>(bytes);
  allocation->is_host = true;
  allocation->is_constant = is_constant;
  allocation->shadow.resize(size + Allocation::kShadowAlignment);
  allocation->shadow.begin_launch(launch_);
  allocations_[allocation->base] = std::move(allocation);
}

Allocation* Memory::nearest(uint64_t address) {
  for (Memory* peer : peers_)
    if (address >= peer->region_ && address < peer->region_end_) return peer->nearest(address);
  auto after = allocations_.upper_bound(address);
  if (after == allocations_.begin()) return nullptr;
  return std::prev(after)->second.get();
}

Allocation* Memory::find(uint64_t address, uint64_t size) {
  Allocation* allocation = nearest(address);
  if (!allocation || allocation->is_freed || !allocation->contains(address, size)) return nullptr;
  return allocation;
}

bool Memory::write(uint64_t address, const void* source, uint64_t size) {
  Allocation* allocation = find(address, size);
  if (!allocation) return false;
  const uint64_t offset = address - allocation->base;
  std::memcpy(allocation->bytes + offset, source, size);
  if (!allocation->written.empty()) std::memset(&allocation->written[offset], 1, size);
  return true;
}

bool Memory::read(void* target, uint64_t address, uint64_t size) {
  Allocation* allocation = find(address, size);
  if (!allocation) return false;
  std::memcpy(target, allocation->bytes + (address - allocation->base), size);
  return true;
}

bool Memory::fill(uint64_t address, const void* pattern, uint64_t pattern_size, uint64_t count) {
  Allocation* allocation = find(address, pattern_size * count);
  if (!allocation) return false;
  const uint64_t offset = address - allocation->base;
  for (uint64_t i = 0; i < count; ++i)
    std::memcpy(allocation->bytes + offset + i * pattern_size, pattern, pattern_size);
  if (!allocation->written.empty())
    std::memset(&allocation->written[offset], 1, pattern_size * count);
  return true;
}

bool Memory::copy(uint64_t target, uint64_t source, uint64_t size) {
  Allocation* to = find(target, size);
  Allocation* from = find(source, size);
  if (!to || !from) return false;
  const uint64_t to_offset = target - to->base, from_offset = source - from->base;
  std::memmove(to->bytes + to_offset, from->bytes + from_offset, size);
  if (!to->written.empty()) {
    if (from->written.empty())
      std::memset(&to->written[to_offset], 1, size);
    else
      std::memmove(&to->written[to_offset], &from->written[from_offset], size);
  }
  return true;
}

void Memory::begin_launch() {
  ++launch_;
  for (auto& [base, allocation] : allocations_) allocation->shadow.begin_launch(launch_);
  for (Memory* peer : peers_) peer->begin_launch();
}

}  // namespace gptoss::emulator
