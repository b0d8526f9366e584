// hw_limits N: what this machine can do at most, memory reads and arithmetic, on 1 to N threads.
// hw_limits N FILE: how fast N threads read that file from the page cache.
// Built by hw_limits.py; prints JSON.
#include <fcntl.h>
#include <immintrin.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

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

double read_gb_s(const char* data, size_t bytes, int threads) {
  const size_t part = bytes / threads / 128 * 128;
  return 1e-9 * part * threads / median_s(threads, [=](int t) {
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

// 1e9 operations per second of a loop body that does `ops`, on several threads.
template <class F>
double gops(int threads, double ops, F body) {
  constexpr long kSteps = 2'000'000;
  return 1e-9 * threads * ops * kSteps / median_s(threads, [=](int) {
           for (long i = 0; i < kSteps; ++i) body();
         });
}

// Twelve instructions, each on a register of its own, which is more than latency times ports.
// Assembly, because compilers would keep an array of registers in memory.
#define TWELVE(op, r)                                                                           \
  asm volatile(op " %%" r "12, %%" r "13, %%" r "0\n\t" op " %%" r "12, %%" r "13, %%" r        \
                  "1\n\t" op " %%" r "12, %%" r "13, %%" r "2\n\t" op " %%" r "12, %%" r        \
                  "13, %%" r "3\n\t" op " %%" r "12, %%" r "13, %%" r "4\n\t" op " %%" r        \
                  "12, %%" r "13, %%" r "5\n\t" op " %%" r "12, %%" r "13, %%" r "6\n\t" op     \
                  " %%" r "12, %%" r "13, %%" r "7\n\t" op " %%" r "12, %%" r "13, %%" r        \
                  "8\n\t" op " %%" r "12, %%" r "13, %%" r "9\n\t" op " %%" r "12, %%" r        \
                  "13, %%" r "10\n\t" op " %%" r "12, %%" r "13, %%" r "11" ::                  \
                      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                        "xmm9", "xmm10", "xmm11")

// Six products of int8 in pairs, each added to a register of 16-bit sums: what can be done with
// int8 where there is no instruction for it. The products' registers are renamed, the sums' are
// chains.
#define ONE_PAIR(r, product, sum)                 \
  "vpmaddubsw %%" r "12, %%" r "13, %%" r product \
  "\n\t"                                          \
  "vpaddw %%" r product ", %%" r sum ", %%" r sum "\n\t"
#define SIX_PAIRS(r)                                                                             \
  asm volatile(ONE_PAIR(r, "6", "0") ONE_PAIR(r, "7", "1") ONE_PAIR(r, "8", "2")                 \
                   ONE_PAIR(r, "9", "3") ONE_PAIR(r, "10", "4") ONE_PAIR(r, "11", "5")::         \
                       : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                         "xmm9", "xmm10", "xmm11")

#if defined(__AMX_TILE__)
// All tiles 16 rows of 64 bytes. False if the system does not let us.
bool configure_tiles() {
  static const bool allowed = syscall(SYS_arch_prctl, 0x1023 /* REQ_XCOMP_PERM */, 18) == 0;
  if (!allowed) return false;
  alignas(64) uint8_t config[64] = {1};
  for (int tile = 0; tile < 8; ++tile) {
    config[16 + 2 * tile] = 64;
    config[48 + tile] = 16;
  }
  _tile_loadconfig(config);
  return true;
}
#endif

void print_memory(const char* name, bool huge, int max_threads) {
  auto* const data = static_cast<char*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (data == MAP_FAILED) std::exit(1);
  madvise(data, kBytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  std::memset(data, 1, kBytes);
  std::printf("\"%s\": [", name);
  for (int t = 1; t <= max_threads; ++t) {
    std::printf("%s%.2f", t == 1 ? "" : ", ", read_gb_s(data, kBytes, t));
  }
  std::printf("]");
  munmap(data, kBytes);
}

void print_file(const char* path, int threads) {
  const int file = open(path, O_RDONLY);
  struct stat status{};
  if (file < 0 || fstat(file, &status) != 0) std::exit(1);
  const size_t bytes = std::min(kBytes, static_cast<size_t>(status.st_size));
  auto* const data = static_cast<char*>(mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0));
  if (data == MAP_FAILED) std::exit(1);
  std::printf("%.2f", read_gb_s(data, bytes, threads));
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
  if (argc > 2) {
    print_file(argv[2], n);
    return 0;
  }
  std::printf("{");
  print_memory("read_gb_s_4k_pages", false, n);
  std::printf(", ");
  print_memory("read_gb_s_huge_pages", true, n);
#if defined(__AVX512F__) && defined(__AVX512BW__)
  print_peak("fma_gflop_s", n,
             [](int t) { return gops(t, 12 * 32, [] { TWELVE("vfmadd231ps", "zmm"); }); });
  print_peak("int16_chain_gop_s", n,
             [](int t) { return gops(t, 6 * 128, [] { SIX_PAIRS("zmm"); }); });
  // What kernels for AVX2 can do at most here.
  print_peak("fma_256_gflop_s", n,
             [](int t) { return gops(t, 12 * 16, [] { TWELVE("vfmadd231ps", "ymm"); }); });
  print_peak("int16_chain_256_gop_s", n,
             [](int t) { return gops(t, 6 * 64, [] { SIX_PAIRS("ymm"); }); });
#elif defined(__AVX2__) && defined(__FMA__)
  print_peak("fma_gflop_s", n,
             [](int t) { return gops(t, 12 * 16, [] { TWELVE("vfmadd231ps", "ymm"); }); });
  print_peak("int16_chain_gop_s", n,
             [](int t) { return gops(t, 6 * 64, [] { SIX_PAIRS("ymm"); }); });
#endif
#if defined(__AVX512BF16__)
  print_peak("bf16_gflop_s", n,
             [](int t) { return gops(t, 12 * 64, [] { TWELVE("vdpbf16ps", "zmm"); }); });
#endif
#if defined(__AVX512VNNI__)
  print_peak("int8_gop_s", n,
             [](int t) { return gops(t, 12 * 128, [] { TWELVE("vpdpbusd", "zmm"); }); });
#if defined(__AVX512VL__)
  print_peak("int8_256_gop_s", n,
             [](int t) { return gops(t, 12 * 64, [] { TWELVE("vpdpbusd", "ymm"); }); });
#endif
#elif defined(__AVXVNNI__)
  print_peak("int8_gop_s", n,
             [](int t) { return gops(t, 12 * 64, [] { TWELVE("%{vex%} vpdpbusd", "ymm"); }); });
#endif
#if defined(__AMX_TILE__)
  if (configure_tiles()) {
    const auto print_tiles = [n](const char* name, double ops, auto step) {
      print_peak(name, n, [=](int t) {
        return gops(t, 4 * ops, [=] {
          static thread_local const bool configured = configure_tiles();
          if (configured) step();
        });
      });
    };
    print_tiles("amx_bf16_gflop_s", 2 * 16 * 16 * 32, [] {
      _tile_dpbf16ps(0, 4, 5);
      _tile_dpbf16ps(1, 4, 6);
      _tile_dpbf16ps(2, 7, 5);
      _tile_dpbf16ps(3, 7, 6);
    });
    print_tiles("amx_int8_gop_s", 2 * 16 * 16 * 64, [] {
      _tile_dpbusd(0, 4, 5);
      _tile_dpbusd(1, 4, 6);
      _tile_dpbusd(2, 7, 5);
      _tile_dpbusd(3, 7, 6);
    });
  }
#endif
  std::printf("}\n");
}
