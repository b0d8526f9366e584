// cp.async.bulk.tensor: boxes of a tensor, between global and shared memory.
#include <algorithm>
#include <bit>
#include <cstring>

#include "emulator/ptx/access.h"
#include "emulator/ptx/builder.h"
#include "emulator/ptx/bulk.h"
#include "emulator/ptx/linker.h"
#include "emulator/ptx/tensor_map.h"

namespace gptoss::emulator {
namespace {

constexpr uint64_t kTileAlignment = 128;
constexpr uint64_t kMapAlignment = 64;
constexpr uint32_t kChunk = 16;  // what swizzling leaves together

TensorMap read_map(Warp& warp, int lane, uint64_t address, int rank) {
  TensorMap map;
  const Space space = resolve(address);
  check_alignment(warp, space, address, kMapAlignment, lane);
  const uint8_t* bytes = nullptr;
  if (space == Space::kParam && address + kTensorMapBytes <= warp.launch->parameters.size()) {
    bytes = &warp.launch->parameters[address];
  } else if (space == Space::kGlobal) {
    check_range(warp, space, address, kTensorMapBytes, lane, AccessKind::kLoad, warp.pc);
    const Allocation* allocation = warp.launch->memory.nearest(address);
    bytes = allocation->bytes + (address - allocation->base);
  }
  if (bytes) std::memcpy(&map, bytes, sizeof map);
  std::string why;
  if (!bytes || !map.is_valid())
    why = "there is no tensor map at this address";
  else if (map.rank != rank)
    why = "a tensor map of " + std::to_string(map.rank) + " dimensions";
  if (!why.empty()) {
    warp.launch->report(ReportClass::kTensorMap, warp, lane, why);
    throw LaunchFault{Fault::kIllegalInstruction};
  }
  return map;
}

// The pieces of a box at `at`. What is outside of the tensor has no global address.
std::vector<BulkCopy::Piece> box_pieces(Warp& warp, int lane, const TensorMap& map,
                                        const int32_t (&at)[kMostDimensions], uint64_t shared,
                                        AccessKind on_global) {
  check_alignment(warp, Space::kShared, shared, kTileAlignment, lane);
  check_range(warp, Space::kShared, shared, map.box_bytes(), lane,
              on_global == AccessKind::kLoad ? AccessKind::kStore : AccessKind::kLoad, warp.pc);
  const uint32_t row_bytes = map.row_bytes(), rows = map.box_bytes() / row_bytes;
  const int64_t size = int64_t{map.last[0]} + 1, box = map.box[0];
  // Bytes of a row that lie in the tensor.
  const auto begin =
      static_cast<uint32_t>(std::clamp<int64_t>(-int64_t{at[0]}, 0, box) * map.element_bytes);
  const auto end =
      static_cast<uint32_t>(std::clamp<int64_t>(size - at[0], 0, box) * map.element_bytes);
  std::vector<BulkCopy::Piece> pieces;
  for (uint32_t row = 0; row < rows; ++row) {
    uint64_t global = map.address;
    bool inside = begin < end;
    uint32_t rest = row;
    for (int i = 1; i < map.rank; ++i) {
      const int64_t index = int64_t{at[i]} + rest % map.box[i];
      rest /= map.box[i];
      inside = inside && index >= 0 && index <= int64_t{map.last[i]};
      global += static_cast<uint64_t>(index) * map.strides[i - 1];
    }
    global += static_cast<uint64_t>(int64_t{at[0]} * map.element_bytes);
    const uint32_t from = inside ? begin : row_bytes, to = inside ? end : row_bytes;
    if (inside)
      check_range(warp, Space::kGlobal, global + from, to - from, lane, on_global, warp.pc);
    for (uint32_t chunk = 0; chunk < row_bytes; chunk += kChunk) {
      const uint32_t place =
          swizzled(static_cast<uint32_t>(shared) + row * row_bytes + chunk, map.swizzle);
      for (uint32_t i = chunk; i < chunk + kChunk;) {
        const bool in = i >= from && i < to;
        const uint32_t stop = std::min(chunk + kChunk, i < from ? from : in ? to : chunk + kChunk);
        pieces.push_back(
            {in ? global + i : 0, place + (i - chunk), static_cast<uint8_t>(stop - i)});
        i = stop;
      }
    }
  }
  return pieces;
}

void coordinates(Warp& warp, const Instruction& in, int lane, int32_t (&at)[kMostDimensions]) {
  for (int i = 0; i < in.sub; ++i) {
    at[i] = warp.reg<int32_t>(in.src[i])[lane];
    if (!(warp.defined[in.src[i]] >> lane & 1))
      warp.launch->report(ReportClass::kUninitialisedOperand, warp, lane,
                          "a coordinate was never set");
  }
}

// dst [address] in the cluster's shared memory, map [address2]; src: coordinates, mbarrier, and the
// ranks of a multicast where flags say so.
void load_box(Warp& warp, const Instruction& in, uint32_t mask) {
  const LaneAddresses to = addresses(warp, in.address, in.address_bytes, in.offset, mask);
  const LaneAddresses maps = addresses(warp, in.address2, in.address2_bytes, in.offset2, mask);
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    int32_t at[kMostDimensions] = {};
    coordinates(warp, in, l, at);
    const TensorMap map = read_map(warp, l, maps.at[l], in.sub);
    const uint32_t mbarrier =
        warp.reg<uint32_t>(in.src[in.sub])[l] + static_cast<uint32_t>(in.immediate);
    const BulkTarget target = bulk_target(warp, l, to.at[l], mbarrier);
    std::vector<BulkCopy::Piece> pieces =
        box_pieces(warp, l, map, at, target.shared, AccessKind::kLoad);
    if (in.flags)
      start_multicast(warp, l, target, warp.reg<uint16_t>(in.src[in.sub + 1])[l], pieces);
    else
      start_to_shared(warp, l, target, std::move(pieces));
  }
  warp.advance_clock();
}

// map [address], src [address2] in shared memory; src: coordinates.
void store_box(Warp& warp, const Instruction& in, uint32_t mask) {
  const LaneAddresses maps = addresses(warp, in.address, in.address_bytes, in.offset, mask);
  const LaneAddresses from = addresses(warp, in.address2, in.address2_bytes, in.offset2, mask);
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    int32_t at[kMostDimensions] = {};
    coordinates(warp, in, l, at);
    const TensorMap map = read_map(warp, l, maps.at[l], in.sub);
    std::vector<BulkCopy::Piece> pieces =
        box_pieces(warp, l, map, at, from.at[l], AccessKind::kStore);
    std::erase_if(pieces, [](const BulkCopy::Piece& piece) { return !piece.global; });
    start_to_global(warp, l, std::move(pieces));
  }
  warp.advance_clock();
}

}  // namespace

namespace build {

void tensor_copy(Builder& b) {
  Instruction& in = b.in;
  const auto& operands = b.statement().operands;
  const bool to_global = b.has("bulk_group");
  const bool is_multicast = b.has("multicast::cluster");
  const size_t wanted =
      (to_global ? 2u : 3u) + (is_multicast ? 1u : 0u) + (b.has("L2::cache_hint") ? 1u : 0u);
  if (operands.size() != wanted)
    b.fail("a tensor copy of this form has " + std::to_string(wanted) + " operands");
  const int rank = 1 + b.which({"1d", "2d", "3d", "4d", "5d"});
  in.sub = static_cast<uint8_t>(rank);
  const Operand& boxed = operands[to_global ? 0 : 1];
  if (boxed.kind != Operand::Kind::kAddress || boxed.parts.size() != 2 ||
      boxed.parts[1].kind != Operand::Kind::kVector ||
      boxed.parts[1].parts.size() != static_cast<size_t>(rank))
    b.fail("expected [map, {" + std::to_string(rank) + " coordinates}]");
  Operand map = boxed;
  map.parts.resize(1);
  const auto shared = [&](const Operand& operand, Space& space) {
    space = Space::kShared;
    b.address(operand);
  };
  if (to_global) {
    b.address(map);
    shared(operands[1], in.space2);
  } else {
    shared(operands[0], in.space);
    b.address(map);
  }
  for (const Operand& coordinate : boxed.parts[1].parts) b.source(coordinate, Type::kS32, 4, false);
  if (!to_global) mbarrier_operand(b, operands[2]);
  if (is_multicast) b.source(operands[3], Type::kB16, 2, false);
  in.flags = is_multicast;
  b.linker().kernel().uses_async_proxy = true;
  in.tracks_definedness = true;
  b.execute(to_global ? store_box : load_box);
}

}  // namespace build
}  // namespace gptoss::emulator
