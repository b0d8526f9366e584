#include "core/unit_shares.h"

#include <algorithm>

namespace gptoss {
namespace {

// Of what is left for each thread, a range is at most this part: a thread of half the speed of the
// others ends its range when they are through with theirs.
constexpr int64_t kPart = 2;

}  // namespace

UnitShares::UnitShares(int n_threads) : shares_(static_cast<size_t>(n_threads)) {}

void UnitShares::open(uint32_t job, int64_t n_units, int64_t most, Function function,
                      void* context) {
  // The tickets of the previous job have no units left: what a thread reads from here on, it does
  // not use before it has taken a unit of the new job (see take_from()).
  function_.store(function, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  most_.store(most, std::memory_order_relaxed);
  n_units_.store(n_units, std::memory_order_relaxed);
  units_taken_.store(0, std::memory_order_relaxed);
  const auto n_shares = static_cast<int64_t>(shares_.size());
  int64_t begin = 0;
  for (int64_t i = 0; i < n_shares; ++i) {
    const int64_t end = n_units * (i + 1) / n_shares;
    Share& share = shares_[static_cast<size_t>(i)];
    share.end.store(static_cast<uint32_t>(end), std::memory_order_relaxed);
    share.ticket.store(static_cast<uint64_t>(job) << kUnitBits | static_cast<uint64_t>(end - begin),
                       std::memory_order_release);
    begin = end;
  }
}

bool UnitShares::take(uint32_t job, int thread, Range& range) {
  const size_t n_shares = shares_.size();
  for (size_t i = 0; i < n_shares; ++i) {
    if (take_from(shares_[(static_cast<size_t>(thread) + i) % n_shares], job, range)) return true;
  }
  return false;
}

int64_t UnitShares::most_at_a_time() const {
  const int64_t most = most_.load(std::memory_order_relaxed);
  if (most == 1) return 1;
  const int64_t left =
      n_units_.load(std::memory_order_relaxed) - units_taken_.load(std::memory_order_relaxed);
  const int64_t fair = left / (kPart * static_cast<int64_t>(shares_.size()));
  return std::max<int64_t>(1, std::min(most, fair));
}

bool UnitShares::take_from(Share& share, uint32_t job, Range& range) {
  for (;;) {
    uint64_t ticket = share.ticket.load(std::memory_order_acquire);
    const auto units_left = static_cast<uint32_t>(ticket);
    if (static_cast<uint32_t>(ticket >> kUnitBits) != job || units_left == 0) return false;
    const uint32_t end = share.end.load(std::memory_order_relaxed);
    range.function = function_.load(std::memory_order_relaxed);
    range.context = context_.load(std::memory_order_relaxed);
    const int64_t count = std::min<int64_t>(units_left, most_at_a_time());
    // Success means that the ticket has not moved since it was read, with units left: the job was
    // open all the time and what was read above is its own.
    if (!share.ticket.compare_exchange_weak(ticket, ticket - static_cast<uint64_t>(count),
                                            std::memory_order_acq_rel)) {
      continue;
    }
    if (most_.load(std::memory_order_relaxed) > 1) {
      units_taken_.fetch_add(count, std::memory_order_relaxed);
    }
    range.begin = end - units_left;
    range.end = range.begin + count;
    return true;
  }
}

}  // namespace gptoss
