// The memory of one device: allocations with gaps between them, poisoned when fresh.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emulator/ptx/shadow.h"

namespace gptoss::emulator {

inline constexpr uint8_t kPoison = 0xa5;

struct Allocation {
  uint64_t base = 0;
  uint64_t size = 0;
  uint8_t* bytes = nullptr;
  std::string name;
  bool is_constant = false;      // kernels may not write it
  bool is_freed = false;         // kept so that a late use can be named
  bool is_host = false;          // memory of the host, at its own address
  std::vector<uint8_t> owned;    // backing of device memory
  std::vector<uint8_t> written;  // per byte: 1 once a value was stored; empty: all are
  Shadow shadow;

  // Shadow pages lie on addresses that are multiples of their size, whatever the base.
  static constexpr uint64_t kShadowAlignment = 1024;
  uint64_t shadow_offset(uint64_t address) const {
    return address - base + base % kShadowAlignment;
  }
  bool contains(uint64_t address, uint64_t n) const {
    return address >= base && address - base <= size && n <= size - (address - base);
  }
};

// Device addresses are real but inaccessible ones: a host that dereferences them crashes, as it
// would with a device's. An allocation is never placed where another one was.
class Memory {
 public:
  explicit Memory(uint64_t capacity_bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint64_t capacity() const { return capacity_; }
  uint64_t used() const { return used_; }

  // The address, or 0 where the device is full. Alignment is a power of two.
  uint64_t allocate(uint64_t size, std::string name, uint64_t alignment = 256);
  // False where `address` is not the start of a live allocation.
  bool free(uint64_t address);
  // Memory of the host that kernels may access at its own address.
  void map_host(void* bytes, uint64_t size, std::string name, bool is_constant = false);

  // Other devices' memories that accesses may go to, too, until this is called again.
  void set_peers(std::vector<Memory*> peers) { peers_ = std::move(peers); }

  // The allocation that begins at or before the address; freed ones included.
  Allocation* nearest(uint64_t address);
  // The live allocation that holds all the bytes, or null.
  Allocation* find(uint64_t address, uint64_t size);

  // Copies of the host: false where the range is not one of the memory. Reading gives the poison
  // of bytes never written.
  bool write(uint64_t address, const void* source, uint64_t size);
  bool read(void* target, uint64_t address, uint64_t size);
  bool fill(uint64_t address, const void* pattern, uint64_t pattern_size, uint64_t count);
  // Between device addresses; the written state of bytes goes along.
  bool copy(uint64_t target, uint64_t source, uint64_t size);

  void begin_launch();
  uint64_t launch() const { return launch_; }

 private:
  uint64_t capacity_;
  uint64_t used_ = 0;
  uint64_t region_ = 0, region_end_ = 0, next_ = 0;
  uint64_t launch_ = 0;
  std::vector<Memory*> peers_;
  std::map<uint64_t, std::unique_ptr<Allocation>> allocations_;
};

}  // namespace gptoss::emulator
