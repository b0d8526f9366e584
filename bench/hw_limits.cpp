// Measures what this machine can do at most: memory reads and arithmetic, on 1 to n threads.
// Built and run by hw_limits.py; prints one JSON object.
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr size_t kBytes = size_t{2} << 30;  // far beyond any cache
constexpr int kRounds = 7;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Median seconds of work(thread) run on `threads` threads at once.
template <class F>
double median_s(int threads, F work) {
  std::vector<double> times;
  for (int round = 0; round < kRounds; ++round) {
    const double start = now_s();
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; ++t) pool.emplace_back(work, t);
    for (auto& thread : pool) thread.join();
    times.push_back(now_s() - start);
  }
  std::sort(times.begin(), times.end());
  return times[kRounds / 2];
}

double read_gb_s(const char* data, int threads) {
  const size_t part = kBytes / threads;
  return 1e-9 * kBytes / median_s(threads, [=](int t) {
           const char* p = data + part * t;
           __m256i sum[4] = {};
           for (size_t i = 0; i < part; i += 128) {
             for (int j = 0; j < 4; ++j) {
               const auto* const at = reinterpret_cast<const __m256i*>(p + i + 32 * j);
               sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256(at));
             }
           }
           volatile long long sink = _mm256_extract_epi64(
               _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3])),
               0);
           (void)sink;
         });
}

// Operations per second of `step` (16 independent registers at a time), in units of 1e9.
template <class Register, class F>
double gops(int threads, double ops_per_step, Register start, F step) {
  constexpr long kSteps = 4'000'000;
  return 1e-9 * threads * ops_per_step * 16 * kSteps / median_s(threads, [=](int) {
           Register r[16];
           for (auto& x : r) x = start;
           for (long i = 0; i < kSteps; ++i) {
             for (auto& x : r) {
               x = step(x);
               asm volatile("" : "+v"(x));  // keeps the compiler from folding steps
             }
           }
         });
}

void print_memory(const char* name, bool huge, int max_threads) {
  auto* const data = static_cast<char*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (data == MAP_FAILED) std::exit(1);
  madvise(data, kBytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  std::memset(data, 1, kBytes);
  std::printf("\"%s\": [", name);
  for (int t = 1; t <= max_threads; ++t) {
    std::printf("%s%.2f", t == 1 ? "" : ", ", read_gb_s(data, t));
  }
  std::printf("]");
  munmap(data, kBytes);
}

template <class F>
void print_peak(const char* name, int max_threads, F measure) {
  std::printf(", \"%s\": [", name);
  for (int t = 1; t <= max_threads; ++t) std::printf("%s%.1f", t == 1 ? "" : ", ", measure(t));
  std::printf("]");
}

}  // namespace

int main(int argc, char** argv) {
  const int n = argc > 1 ? std::atoi(argv[1]) : 1;
  std::printf("{");
  print_memory("read_gb_s_4k_pages", false, n);
  std::printf(", ");
  print_memory("read_gb_s_huge_pages", true, n);
#if defined(__AVX512F__)
  print_peak("fma_gflop_s", n, [](int t) {
    const __m512 b = _mm512_set1_ps(0.5f);
    return gops(t, 32, b, [=](__m512 x) { return _mm512_fmadd_ps(x, b, b); });
  });
#elif defined(__FMA__)
  print_peak("fma_gflop_s", n, [](int t) {
    const __m256 b = _mm256_set1_ps(0.5f);
    return gops(t, 16, b, [=](__m256 x) { return _mm256_fmadd_ps(x, b, b); });
  });
#endif
#if defined(__AVX512BF16__)
  print_peak("bf16_gflop_s", n, [](int t) {
    const auto b = (__m512bh)_mm512_set1_epi32(0x3f003f00);
    return gops(t, 64, _mm512_set1_ps(0.5f),
                [=](__m512 x) { return _mm512_dpbf16_ps(x, b, b); });
  });
#endif
#if defined(__AVX512VNNI__)
  print_peak("int8_gop_s", n, [](int t) {
    const __m512i b = _mm512_set1_epi32(0x01010101);
    return gops(t, 128, b, [=](__m512i x) { return _mm512_dpbusd_epi32(x, b, b); });
  });
#endif
  std::printf("}\n");
}
