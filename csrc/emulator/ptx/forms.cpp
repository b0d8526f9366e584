#include "emulator/ptx/forms.h"

#include <unordered_map>

#include "emulator/ptx/builder.h"

namespace gptoss::emulator {

const char* name_of(Pipe pipe) {
  static constexpr const char* kNames[] = {"integer", "float",   "half", "double",
                                           "special", "convert", "move", "memory",
                                           "async",   "tensor",  "warp", "control"};
  static_assert(std::size(kNames) == static_cast<size_t>(Pipe::kCount));
  return kNames[static_cast<size_t>(pipe)];
}

namespace {

#define INTEGERS "{u16|s16|u32|s32|u64|s64}"
#define WORDS "{u32|s32}"
#define BITS "{b16|b32|b64}"
#define BITS_OR_PRED "{pred|b16|b32|b64}"
#define ELEMENTS "{b8|u8|s8|b16|u16|s16|b32|u32|s32|b64|u64|s64|f32|f64}"
#define ROUND "{rn|rz|rm|rp}"
#define MAY_ROUND "[rn|rz|rm|rp]"
#define BOOLEAN "[and|or|xor]"
#define INTEGER_RELATION "{eq|ne|lt|le|gt|ge|lo|ls|hi|hs}"
#define FLOAT_RELATION "{eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan}"
#define SCOPE "{cta|cluster|gpu|sys}"
#define MAY_SCOPE "[cta|cluster|gpu|sys]"
#define EVICT \
  "[L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate]"
#define PREFETCH "[L2::64B|L2::128B|L2::256B]"
#define HINT "[L2::cache_hint]"
#define WGMMA_SHAPES(K)                                                                          \
  "{m64n8" K "|m64n16" K "|m64n24" K "|m64n32" K "|m64n40" K "|m64n48" K "|m64n56" K "|m64n64" K \
  "|m64n72" K "|m64n80" K "|m64n88" K "|m64n96" K "|m64n104" K "|m64n112" K "|m64n120" K         \
  "|m64n128" K "|m64n136" K "|m64n144" K "|m64n152" K "|m64n160" K "|m64n168" K "|m64n176" K     \
  "|m64n184" K "|m64n192" K "|m64n200" K "|m64n208" K "|m64n216" K "|m64n224" K "|m64n232" K     \
  "|m64n240" K "|m64n248" K "|m64n256" K "}"
#define SHARED "[shared|shared::cta]"
#define CLUSTER_SHARED "[shared|shared::cta|shared::cluster]"

constexpr Form kForms[] = {
    // ---- moves and conversions ----
    {"mov.{pred|b16|u16|s16|b32|u32|s32|f32|b64|u64|s64|f64}", "", Pipe::kMove, build::move},
    {"cvt.[rn|rz|rm|rp|rna|rni|rzi|rmi|rpi].[ftz].[sat].{u8|s8|u16|s16|u32|s32|u64|s64|f16|bf16|"
     "f32|f64}."
     "{u8|s8|u16|s16|u32|s32|u64|s64|f16|bf16|f32|f64}",
     "", Pipe::kConvert, build::convert},
    {"cvt.{rn|rz}.relu.{f16|bf16}.f32", "", Pipe::kConvert, build::convert},
    {"cvt.{rna|rn|rz}.[relu].tf32.f32", "", Pipe::kConvert, build::convert},
    {"cvt.{rn|rz}.[relu].{f16x2|bf16x2}.f32", "=S,T,T", Pipe::kConvert, build::convert_pair},
    {"cvt.rn.satfinite.[relu].{e4m3x2|e5m2x2}.f32", "=S,T,T", Pipe::kConvert, build::convert_fp8},
    {"cvt.rn.satfinite.[relu].{e4m3x2|e5m2x2}.f16x2", "=S,T", Pipe::kConvert, build::convert_fp8},
    {"cvt.rn.[relu].f16x2.{e4m3x2|e5m2x2}", "=S,T", Pipe::kConvert, build::convert_fp8},
    {"cvt.pack.sat.{u16|s16}.s32", "=4,4,4", Pipe::kConvert, build::convert_pair},
    {"cvt.pack.sat.{u8|s8}.s32.b32", "=4,4,4,4", Pipe::kConvert, build::convert_pair},
    {"cvta.[to].{global|const|shared|shared::cta|shared::cluster|local|param}.u64", "=T,T",
     Pipe::kMove, build::convert_address},
    {"isspacep.{global|const|shared|shared::cta|shared::cluster|local|param}", "=P,8",
     Pipe::kInteger, build::is_space},
    {"mapa.[shared::cluster].{u32|u64}", "=T,T,4", Pipe::kInteger, build::map_shared},
    {"getctarank.[shared::cluster].{u32|u64}", "=4,T", Pipe::kInteger, build::map_shared},

    // ---- integers ----
    {"add." INTEGERS, "=T,T,T", Pipe::kInteger, build::integer},
    {"add.sat.s32", "=T,T,T", Pipe::kInteger, build::integer},
    {"sub." INTEGERS, "=T,T,T", Pipe::kInteger, build::integer},
    {"sub.sat.s32", "=T,T,T", Pipe::kInteger, build::integer},
    {"mul.{lo|hi}." INTEGERS, "=T,T,T", Pipe::kInteger, build::integer},
    {"mul.wide.{u16|s16|u32|s32}", "=W,T,T", Pipe::kInteger, build::integer_wide},
    {"mul24.{lo|hi}." WORDS, "=T,T,T", Pipe::kInteger, build::integer},
    {"mad.{lo|hi}." INTEGERS, "=T,T,T,T", Pipe::kInteger, build::integer},
    {"mad.hi.sat.s32", "=T,T,T,T", Pipe::kInteger, build::integer},
    {"mad.wide.{u16|s16|u32|s32}", "=W,T,T,W", Pipe::kInteger, build::integer_wide},
    {"mad24.{lo|hi}." WORDS, "=T,T,T,T", Pipe::kInteger, build::integer},
    {"div." INTEGERS, "=T,T,T", Pipe::kInteger, build::integer},
    {"rem." INTEGERS, "=T,T,T", Pipe::kInteger, build::integer},
    {"min." INTEGERS, "=T,T,T", Pipe::kInteger, build::integer},
    {"max." INTEGERS, "=T,T,T", Pipe::kInteger, build::integer},
    {"abs.{s16|s32|s64}", "=T,T", Pipe::kInteger, build::integer},
    {"neg.{s16|s32|s64}", "=T,T", Pipe::kInteger, build::integer},
    {"sad." INTEGERS, "=T,T,T,T", Pipe::kInteger, build::integer},
    {"add.cc.{u32|s32|u64|s64}", "=T,T,T", Pipe::kInteger, build::carry},
    {"addc.[cc].{u32|s32|u64|s64}", "=T,T,T", Pipe::kInteger, build::carry},
    {"sub.cc.{u32|s32|u64|s64}", "=T,T,T", Pipe::kInteger, build::carry},
    {"subc.[cc].{u32|s32|u64|s64}", "=T,T,T", Pipe::kInteger, build::carry},
    {"mad.{lo|hi}.cc.{u32|s32|u64}", "=T,T,T,T", Pipe::kInteger, build::carry},
    {"madc.{lo|hi}.[cc].{u32|s32|u64}", "=T,T,T,T", Pipe::kInteger, build::carry},
    {"dp4a." WORDS "." WORDS, "=4,4,4,4", Pipe::kInteger, build::dot},
    {"dp2a.{lo|hi}." WORDS "." WORDS, "=4,4,4,4", Pipe::kInteger, build::dot},
    {"and." BITS_OR_PRED, "=T,!T,!T", Pipe::kInteger, build::logic},
    {"or." BITS_OR_PRED, "=T,!T,!T", Pipe::kInteger, build::logic},
    {"xor." BITS_OR_PRED, "=T,!T,!T", Pipe::kInteger, build::logic},
    {"not." BITS_OR_PRED, "=T,T", Pipe::kInteger, build::logic},
    {"cnot." BITS, "=T,T", Pipe::kInteger, build::logic},
    {"lop3.b32", "=4,4,4,4,N", Pipe::kInteger, build::logic},
    {"shl." BITS, "=T,T,4", Pipe::kInteger, build::shift},
    {"shr.{b16|u16|s16|b32|u32|s32|b64|u64|s64}", "=T,T,4", Pipe::kInteger, build::shift},
    {"shf.{l|r}.{clamp|wrap}.b32", "=4,4,4,4", Pipe::kInteger, build::shift},
    {"popc.{b32|b64}", "=4,T", Pipe::kInteger, build::bits},
    {"clz.{b32|b64}", "=4,T", Pipe::kInteger, build::bits},
    {"bfind.[shiftamt].{u32|s32|u64|s64}", "=4,T", Pipe::kInteger, build::bits},
    {"brev.{b32|b64}", "=T,T", Pipe::kInteger, build::bits},
    {"bfe.{u32|s32|u64|s64}", "=T,T,4,4", Pipe::kInteger, build::bits},
    {"bfi.{b32|b64}", "=T,T,T,4,4", Pipe::kInteger, build::bits},
    {"prmt.b32.[f4e|b4e|rc8|ecl|ecr|rc16]", "=4,4,4,4", Pipe::kInteger, build::bits},

    // ---- f32 and f64 ----
    {"add." MAY_ROUND ".[ftz].[sat].f32", "=T,T,T", Pipe::kFloat, build::floating},
    {"sub." MAY_ROUND ".[ftz].[sat].f32", "=T,T,T", Pipe::kFloat, build::floating},
    {"mul." MAY_ROUND ".[ftz].[sat].f32", "=T,T,T", Pipe::kFloat, build::floating},
    {"fma." ROUND ".[ftz].[sat].f32", "=T,T,T,T", Pipe::kFloat, build::floating},
    {"mad." ROUND ".[ftz].[sat].f32", "=T,T,T,T", Pipe::kFloat, build::floating},
    {"add." MAY_ROUND ".[ftz].f32x2", "=T,T,T", Pipe::kFloat, build::floating},
    {"sub." MAY_ROUND ".[ftz].f32x2", "=T,T,T", Pipe::kFloat, build::floating},
    {"mul." MAY_ROUND ".[ftz].f32x2", "=T,T,T", Pipe::kFloat, build::floating},
    {"fma." ROUND ".[ftz].f32x2", "=T,T,T,T", Pipe::kFloat, build::floating},
    {"div.{approx|full|rn|rz|rm|rp}.[ftz].f32", "=T,T,T", Pipe::kFloat, build::floating},
    {"abs.[ftz].f32", "=T,T", Pipe::kFloat, build::floating},
    {"neg.[ftz].f32", "=T,T", Pipe::kFloat, build::floating},
    {"min.[ftz].[NaN].f32", "=T,T,T,?T", Pipe::kFloat, build::floating},
    {"max.[ftz].[NaN].f32", "=T,T,T,?T", Pipe::kFloat, build::floating},
    {"rcp.{approx|rn|rz|rm|rp}.[ftz].f32", "=T,T", Pipe::kSpecial, build::floating},
    {"sqrt.{approx|rn|rz|rm|rp}.[ftz].f32", "=T,T", Pipe::kSpecial, build::floating},
    {"copysign.{f32|f64}", "=T,T,T", Pipe::kFloat, build::floating},
    {"add." MAY_ROUND ".f64", "=T,T,T", Pipe::kDouble, build::floating},
    {"sub." MAY_ROUND ".f64", "=T,T,T", Pipe::kDouble, build::floating},
    {"mul." MAY_ROUND ".f64", "=T,T,T", Pipe::kDouble, build::floating},
    {"fma." ROUND ".f64", "=T,T,T,T", Pipe::kDouble, build::floating},
    {"mad." ROUND ".f64", "=T,T,T,T", Pipe::kDouble, build::floating},
    {"div." ROUND ".f64", "=T,T,T", Pipe::kDouble, build::floating},
    {"abs.f64", "=T,T", Pipe::kDouble, build::floating},
    {"neg.f64", "=T,T", Pipe::kDouble, build::floating},
    {"min.f64", "=T,T,T", Pipe::kDouble, build::floating},
    {"max.f64", "=T,T,T", Pipe::kDouble, build::floating},
    {"rcp." ROUND ".f64", "=T,T", Pipe::kDouble, build::floating},
    {"rcp.approx.ftz.f64", "=T,T", Pipe::kSpecial, build::special},
    {"sqrt." ROUND ".f64", "=T,T", Pipe::kDouble, build::floating},
    {"rsqrt.approx.[ftz].{f32|f64}", "=T,T", Pipe::kSpecial, build::special},
    {"ex2.approx.[ftz].f32", "=T,T", Pipe::kSpecial, build::special},
    {"lg2.approx.[ftz].f32", "=T,T", Pipe::kSpecial, build::special},
    {"sin.approx.[ftz].f32", "=T,T", Pipe::kSpecial, build::special},
    {"cos.approx.[ftz].f32", "=T,T", Pipe::kSpecial, build::special},
    {"tanh.approx.f32", "=T,T", Pipe::kSpecial, build::special},
    {"testp.{finite|infinite|number|notanumber|normal|subnormal}.{f32|f64}", "=P,T", Pipe::kFloat,
     build::special},

    // ---- f16 and bf16 ----
    {"add.[rn].[ftz].[sat].{f16|f16x2}", "=T,T,T", Pipe::kHalf, build::half},
    {"sub.[rn].[ftz].[sat].{f16|f16x2}", "=T,T,T", Pipe::kHalf, build::half},
    {"mul.[rn].[ftz].[sat].{f16|f16x2}", "=T,T,T", Pipe::kHalf, build::half},
    {"add.[rn].{bf16|bf16x2}", "=T,T,T", Pipe::kHalf, build::half},
    {"sub.[rn].{bf16|bf16x2}", "=T,T,T", Pipe::kHalf, build::half},
    {"mul.[rn].{bf16|bf16x2}", "=T,T,T", Pipe::kHalf, build::half},
    {"fma.rn.[ftz].[sat|relu].{f16|f16x2}", "=T,T,T,T", Pipe::kHalf, build::half},
    {"fma.rn.[relu].{bf16|bf16x2}", "=T,T,T,T", Pipe::kHalf, build::half},
    {"neg.[ftz].{f16|f16x2}", "=T,T", Pipe::kHalf, build::half},
    {"abs.[ftz].{f16|f16x2}", "=T,T", Pipe::kHalf, build::half},
    {"min.[ftz].[NaN].{f16|f16x2}", "=T,T,T", Pipe::kHalf, build::half},
    {"max.[ftz].[NaN].{f16|f16x2}", "=T,T,T", Pipe::kHalf, build::half},
    {"neg.{bf16|bf16x2}", "=T,T", Pipe::kHalf, build::half},
    {"abs.{bf16|bf16x2}", "=T,T", Pipe::kHalf, build::half},
    {"min.[NaN].{bf16|bf16x2}", "=T,T,T", Pipe::kHalf, build::half},
    {"max.[NaN].{bf16|bf16x2}", "=T,T,T", Pipe::kHalf, build::half},
    {"ex2.approx.{f16|f16x2}", "=T,T", Pipe::kSpecial, build::half},
    {"ex2.approx.ftz.{bf16|bf16x2}", "=T,T", Pipe::kSpecial, build::half},
    {"tanh.approx.{f16|f16x2|bf16|bf16x2}", "=T,T", Pipe::kSpecial, build::half},

    // ---- comparisons and selections ----
    {"setp." INTEGER_RELATION "." BOOLEAN ".{b16|u16|s16|b32|u32|s32|b64|u64|s64}", "=P|P,T,T,?!P",
     Pipe::kInteger, build::compare},
    {"setp." FLOAT_RELATION "." BOOLEAN ".[ftz].{f32|f16|f16x2}", "=P|P,T,T,?!P", Pipe::kFloat,
     build::compare},
    {"setp." FLOAT_RELATION "." BOOLEAN ".{f64|bf16|bf16x2}", "=P|P,T,T,?!P", Pipe::kFloat,
     build::compare},
    {"set." INTEGER_RELATION "." BOOLEAN ".{u32|s32|f32}.{b16|u16|s16|b32|u32|s32|b64|u64|s64}",
     "=S,T,T,?!P", Pipe::kInteger, build::compare},
    {"set." FLOAT_RELATION "." BOOLEAN ".[ftz].{u32|s32|f32}.f32", "=S,T,T,?!P", Pipe::kFloat,
     build::compare},
    {"set." FLOAT_RELATION "." BOOLEAN ".{u32|s32|f32}.f64", "=S,T,T,?!P", Pipe::kFloat,
     build::compare},
    {"set." FLOAT_RELATION ".[ftz].{f16|u16|s16}.f16", "=S,T,T", Pipe::kHalf, build::compare},
    {"set." FLOAT_RELATION ".{bf16|u16|s16}.bf16", "=S,T,T", Pipe::kHalf, build::compare},
    {"set." FLOAT_RELATION ".[ftz].{f16x2|u32|s32}.f16x2", "=S,T,T", Pipe::kHalf, build::compare},
    {"set." FLOAT_RELATION ".{bf16x2|u32|s32}.bf16x2", "=S,T,T", Pipe::kHalf, build::compare},
    {"selp.{b16|u16|s16|b32|u32|s32|f32|b64|u64|s64|f64}", "=T,T,T,!P", Pipe::kInteger,
     build::select},
    {"slct.[ftz].{b16|u16|s16|b32|u32|s32|f32|b64|u64|s64|f64}.{s32|f32}", "=S,S,S,T",
     Pipe::kInteger, build::select},

    // ---- memory ----
    {"ld.[weak|volatile].[global|const|shared|shared::cta|shared::cluster|local|param|param::entry|"
     "param::func]."
     "[ca|cg|cs|lu|cv]." EVICT "." HINT "." PREFETCH ".[v2|v4|v8]." ELEMENTS,
     "=VT~,M,?8", Pipe::kMemory, build::load},
    {"ld.{relaxed|acquire}." SCOPE ".[global|shared|shared::cta|shared::cluster]." EVICT "." HINT
     "." PREFETCH ".[v2|v4]." ELEMENTS,
     "=VT~,M,?8", Pipe::kMemory, build::load},
    {"ld.[weak].global.[ca|cg|cs].nc." EVICT "." HINT "." PREFETCH ".[v2|v4|v8]." ELEMENTS,
     "=VT~,M,?8", Pipe::kMemory, build::load},
    {"ldu.global.[v2|v4]." ELEMENTS, "=VT~,M", Pipe::kMemory, build::load},
    {"st.[weak|volatile].[global|shared|shared::cta|shared::cluster|local|param|param::func].[wb|"
     "cg|cs|wt]." EVICT "." HINT ".[v2|v4|v8]." ELEMENTS,
     "M,VT~,?8", Pipe::kMemory, build::store},
    {"st.{relaxed|release}." SCOPE ".[global|shared|shared::cta|shared::cluster]." EVICT "." HINT
     ".[v2|v4]." ELEMENTS,
     "M,VT~,?8", Pipe::kMemory, build::store},
    {"atom.[relaxed|acquire|release|acq_rel]." MAY_SCOPE
     ".[global|shared|shared::cta|shared::cluster].cas." HINT ".{b16|b32|b64|u32|s32|u64}",
     "=T,M,T,T,?8", Pipe::kMemory, build::atomic},
    {"atom.[relaxed|acquire|release|acq_rel]." MAY_SCOPE
     ".[global|shared|shared::cta|shared::cluster].{exch|and|or|xor}." HINT
     ".{b32|b64|u32|s32|u64}",
     "=T,M,T,?8", Pipe::kMemory, build::atomic},
    {"atom.[relaxed|acquire|release|acq_rel]." MAY_SCOPE
     ".[global|shared|shared::cta|shared::cluster].{add|min|max}." HINT ".{u32|s32|u64|s64}",
     "=T,M,T,?8", Pipe::kMemory, build::atomic},
    {"atom.[relaxed|acquire|release|acq_rel]." MAY_SCOPE
     ".[global|shared|shared::cta|shared::cluster].{inc|dec}." HINT ".u32",
     "=T,M,T,?8", Pipe::kMemory, build::atomic},
    {"atom.[relaxed|acquire|release|acq_rel]." MAY_SCOPE
     ".[global|shared|shared::cta|shared::cluster].add." HINT ".{f32|f64}",
     "=T,M,T,?8", Pipe::kMemory, build::atomic},
    {"atom.[relaxed|acquire|release|acq_rel]." MAY_SCOPE
     ".[global|shared|shared::cta|shared::cluster].add.noftz." HINT ".{f16|bf16|f16x2|bf16x2}",
     "=T,M,T,?8", Pipe::kMemory, build::atomic},
    // The order of modifiers that the cooperative groups of CUDA write.
    {"atom.add.{relaxed|acquire|release|acq_rel}." SCOPE
     ".[global|shared|shared::cta|shared::cluster].{u32|s32|u64}",
     "=T,M,T", Pipe::kMemory, build::atomic},
    // The order of Triton.
    {"atom.{global|shared}." SCOPE
     ".{relaxed|acquire|release|acq_rel}.{add|min|max|and|or|xor|exch}."
     "{b32|b64|u32|s32|u64|s64}",
     "=T,M,T", Pipe::kMemory, build::atomic},
    {"atom.{global|shared}." SCOPE ".{relaxed|acquire|release|acq_rel}.add.{f32|f64}", "=T,M,T",
     Pipe::kMemory, build::atomic},
    {"atom.{global|shared}." SCOPE
     ".{relaxed|acquire|release|acq_rel}.add.noftz.{f16|f16x2|bf16|bf16x2}",
     "=T,M,T", Pipe::kMemory, build::atomic},
    {"atom.{global|shared}." SCOPE ".{relaxed|acquire|release|acq_rel}.cas.{b32|b64}", "=T,M,T,T",
     Pipe::kMemory, build::atomic},
    {"red.[relaxed|release]." MAY_SCOPE
     ".[global|shared|shared::cta|shared::cluster].{and|or|xor}." HINT ".{b32|b64|u32|s32|u64}",
     "M,T,?8", Pipe::kMemory, build::atomic},
    {"red.[relaxed|release]." MAY_SCOPE
     ".[global|shared|shared::cta|shared::cluster].{add|min|max}." HINT ".{u32|s32|u64|s64}",
     "M,T,?8", Pipe::kMemory, build::atomic},
    {"red.[relaxed|release]." MAY_SCOPE
     ".[global|shared|shared::cta|shared::cluster].{inc|dec}." HINT ".u32",
     "M,T,?8", Pipe::kMemory, build::atomic},
    {"red.[relaxed|release]." MAY_SCOPE ".[global|shared|shared::cta|shared::cluster].add." HINT
     ".{f32|f64}",
     "M,T,?8", Pipe::kMemory, build::atomic},
    {"red.[relaxed|release]." MAY_SCOPE
     ".[global|shared|shared::cta|shared::cluster].add.noftz." HINT ".{f16|bf16|f16x2|bf16x2}",
     "M,T,?8", Pipe::kMemory, build::atomic},
    {"fence.[sc|acq_rel]." SCOPE, "", Pipe::kMemory, build::fence},
    {"membar.{cta|gl|sys}", "", Pipe::kMemory, build::fence},
    {"prefetch.[global|local].{L1|L2}", "M", Pipe::kMemory, build::no_effect},
    {"prefetch.global.{L2::evict_last|L2::evict_normal}", "M", Pipe::kMemory, build::no_effect},
    {"prefetchu.L1", "M", Pipe::kMemory, build::no_effect},
    {"applypriority.[global].L2::evict_normal", "M,N", Pipe::kMemory, build::no_effect},
    {"createpolicy.fractional.{L2::evict_last|L2::evict_normal|L2::evict_first|L2::evict_unchanged}"
     "."
     "[L2::evict_first|L2::evict_unchanged].b64",
     "=8,?4", Pipe::kMove, build::policy},

    // ---- asynchronous copies ----
    {"cp.async.{ca|cg}.{shared|shared::cta}.global." HINT "." PREFETCH, "M,M,N,?4,?8", Pipe::kAsync,
     build::copy_async},
    {"cp.async.commit_group", "", Pipe::kAsync, build::copy_async_group},
    {"cp.async.wait_group", "N", Pipe::kAsync, build::copy_async_group},
    {"cp.async.wait_all", "", Pipe::kAsync, build::copy_async_group},

    {"mbarrier.init." SHARED ".b64", "M,4", Pipe::kAsync, build::mbarrier},
    {"mbarrier.inval." SHARED ".b64", "M", Pipe::kAsync, build::mbarrier},
    {"mbarrier.arrive.[release].[cta|cluster]." CLUSTER_SHARED ".b64", "=8,M,?4", Pipe::kAsync,
     build::mbarrier},
    {"mbarrier.arrive.expect_tx.[release].[cta|cluster]." CLUSTER_SHARED ".b64", "=8,M,4",
     Pipe::kAsync, build::mbarrier},
    {"mbarrier.expect_tx.[relaxed].[cta|cluster]." CLUSTER_SHARED ".b64", "M,4", Pipe::kAsync,
     build::mbarrier},
    {"mbarrier.{test_wait|try_wait}.[acquire].[cta|cluster]." SHARED ".b64", "=P,M,8,?4",
     Pipe::kAsync, build::mbarrier},
    {"mbarrier.{test_wait|try_wait}.parity.[acquire].[cta|cluster]." SHARED ".b64", "=P,M,4,?4",
     Pipe::kAsync, build::mbarrier},
    {"cp.async.mbarrier.arrive.noinc." SHARED ".b64", "M", Pipe::kAsync, build::mbarrier_copies},
    {"cp.async.bulk.{shared::cluster|shared::cta}.global.mbarrier::complete_tx::bytes." HINT, "",
     Pipe::kAsync, build::bulk_copy},
    {"cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster." HINT,
     "", Pipe::kAsync, build::bulk_copy},
    {"cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes", "", Pipe::kAsync,
     build::bulk_copy},
    {"cp.async.bulk.global.shared::cta.bulk_group." HINT, "", Pipe::kAsync, build::bulk_copy},
    {"cp.async.bulk.tensor.{1d|2d|3d|4d|5d}.{shared::cluster|shared::cta}.global.[tile]."
     "mbarrier::complete_tx::bytes." HINT,
     "", Pipe::kAsync, build::tensor_copy},
    {"cp.async.bulk.tensor.{1d|2d|3d|4d|5d}.shared::cluster.global.[tile]."
     "mbarrier::complete_tx::bytes.multicast::cluster." HINT,
     "", Pipe::kAsync, build::tensor_copy},
    {"cp.async.bulk.tensor.{1d|2d|3d|4d|5d}.global.shared::cta.[tile].bulk_group." HINT, "",
     Pipe::kAsync, build::tensor_copy},
    {"prefetch.tensormap", "M", Pipe::kMemory, build::no_effect},
    {"cp.async.bulk.commit_group", "", Pipe::kAsync, build::bulk_group},
    {"cp.async.bulk.wait_group.[read]", "N", Pipe::kAsync, build::bulk_group},
    {"fence.proxy.async.[global|shared::cta|shared::cluster]", "", Pipe::kMemory,
     build::proxy_fence},
    {"fence.mbarrier_init.release.cluster", "", Pipe::kMemory, build::mbarrier_init_fence},

    // ---- control ----
    {"bra.[uni]", "", Pipe::kControl, build::branch},
    {"ret.[uni]", "", Pipe::kControl, build::leave},
    {"exit", "", Pipe::kControl, build::leave},
    {"trap", "", Pipe::kControl, build::trap},
    {"brkpt", "", Pipe::kControl, build::trap},
    {"nanosleep.u32", "4", Pipe::kControl, build::no_effect},
    {"bar.[cta].{sync|arrive}", "", Pipe::kControl, build::barrier},
    {"barrier.[cta].{sync|arrive}.[aligned]", "", Pipe::kControl, build::barrier},
    {"bar.[cta].red.popc.u32", "", Pipe::kControl, build::barrier},
    {"bar.[cta].red.{and|or}.pred", "", Pipe::kControl, build::barrier},
    {"barrier.[cta].red.popc.[aligned].u32", "", Pipe::kControl, build::barrier},
    {"barrier.[cta].red.{and|or}.[aligned].pred", "", Pipe::kControl, build::barrier},

    {"barrier.cluster.arrive.[release|relaxed].[aligned]", "", Pipe::kControl,
     build::cluster_barrier},
    {"barrier.cluster.wait.[acquire].[aligned]", "", Pipe::kControl, build::cluster_barrier},

    {"setmaxnreg.{inc|dec}.sync.aligned.u32", "N", Pipe::kControl, build::set_registers},
    {"griddepcontrol.{wait|launch_dependents}", "", Pipe::kControl, build::grid_dependency},

    // ---- lanes of a warp ----
    {"bar.warp.sync", "4", Pipe::kWarp, build::warp_barrier},
    {"shfl.sync.{idx|up|down|bfly}.b32", "=4|P,4,4,4,4", Pipe::kWarp, build::shuffle},
    {"vote.sync.{all|any|uni}.pred", "=P,!P,4", Pipe::kWarp, build::vote},
    {"vote.sync.ballot.b32", "=4,!P,4", Pipe::kWarp, build::vote},
    {"match.any.sync.{b32|b64}", "=4,T,4", Pipe::kWarp, build::match},
    {"match.all.sync.{b32|b64}", "=4|P,T,4", Pipe::kWarp, build::match},
    {"redux.sync.{add|min|max}." WORDS, "=4,4,4", Pipe::kWarp, build::reduce},
    {"redux.sync.{and|or|xor}.b32", "=4,4,4", Pipe::kWarp, build::reduce},
    {"elect.sync", "=4|P,4", Pipe::kWarp, build::elect},
    {"activemask.b32", "=4", Pipe::kWarp, build::active_mask},

    // ---- matrices ----
    {"ldmatrix.sync.aligned.m8n8.{x1|x2|x4}.[trans]." SHARED ".b16", "=V4,M", Pipe::kMemory,
     build::load_matrix},
    {"stmatrix.sync.aligned.m8n8.{x1|x2|x4}.[trans]." SHARED ".b16", "M,V4", Pipe::kMemory,
     build::store_matrix},
    {"mma.sync.aligned.{m16n8k8|m16n8k16}.row.col.f32.bf16.bf16.f32", "=V4,V4,V4,V4", Pipe::kTensor,
     build::multiply_matrix},
    {"mma.sync.aligned.{m16n8k8|m16n8k16}.row.col.f32.f16.f16.f32", "=V4,V4,V4,V4", Pipe::kTensor,
     build::multiply_matrix},
    {"mma.sync.aligned.{m16n8k8|m16n8k16}.row.col.f16.f16.f16.f16", "=V4,V4,V4,V4", Pipe::kTensor,
     build::multiply_matrix},
    {"mma.sync.aligned.{m16n8k4|m16n8k8}.row.col.f32.tf32.tf32.f32", "=V4,V4,V4,V4", Pipe::kTensor,
     build::multiply_matrix},
    {"mma.sync.aligned.m16n8k32.row.col.f32.{e4m3|e5m2}.{e4m3|e5m2}.f32", "=V4,V4,V4,V4",
     Pipe::kTensor, build::multiply_matrix},
    {"mma.sync.aligned.m16n8k32.row.col.f16.{e4m3|e5m2}.{e4m3|e5m2}.f16", "=V4,V4,V4,V4",
     Pipe::kTensor, build::multiply_matrix},
    {"wgmma.mma_async.sync.aligned." WGMMA_SHAPES("k16") ".f32.bf16.bf16", "", Pipe::kTensor,
     build::wgmma},
    {"wgmma.mma_async.sync.aligned." WGMMA_SHAPES("k16") ".f32.f16.f16", "", Pipe::kTensor,
     build::wgmma},
    {"wgmma.mma_async.sync.aligned." WGMMA_SHAPES("k8") ".f32.tf32.tf32", "", Pipe::kTensor,
     build::wgmma},
    {"wgmma.fence.sync.aligned", "", Pipe::kTensor, build::wgmma_group},
    {"wgmma.commit_group.sync.aligned", "", Pipe::kTensor, build::wgmma_group},
    {"wgmma.wait_group.sync.aligned", "N", Pipe::kTensor, build::wgmma_group},
    {"mma.sync.aligned.{m16n8k16|m16n8k32}.row.col.[satfinite].s32.{s8|u8}.{s8|u8}.s32",
     "=V4,V4,V4,V4", Pipe::kTensor, build::multiply_matrix},
};

bool is_choice(std::string_view segment, std::string_view word) {
  // Between the brackets, one of the words between bars.
  segment = segment.substr(1, segment.size() - 2);
  while (!segment.empty()) {
    const size_t bar = segment.find('|');
    if (segment.substr(0, bar) == word) return true;
    if (bar == std::string_view::npos) return false;
    segment.remove_prefix(bar + 1);
  }
  return false;
}

bool matches(std::string_view pattern, const std::vector<std::string>& words) {
  size_t at = 0;
  while (!pattern.empty()) {
    const size_t point = pattern.find('.');
    const std::string_view segment = pattern.substr(0, point);
    pattern = point == std::string_view::npos ? std::string_view() : pattern.substr(point + 1);
    const bool has_word = at < words.size();
    if (segment[0] == '[') {
      at += has_word && is_choice(segment, words[at]);
    } else if (segment[0] == '{') {
      if (!has_word || !is_choice(segment, words[at])) return false;
      ++at;
    } else {
      if (!has_word || words[at] != segment) return false;
      ++at;
    }
  }
  return at == words.size();
}

}  // namespace

std::span<const Form> forms() { return kForms; }

int find_form(const std::vector<std::string>& words) {
  static const auto by_opcode = [] {
    std::unordered_map<std::string_view, std::vector<int>> index;
    for (size_t i = 0; i < std::size(kForms); ++i) {
      const std::string_view pattern = kForms[i].pattern;
      index[pattern.substr(0, pattern.find('.'))].push_back(static_cast<int>(i));
    }
    return index;
  }();
  const auto rows = by_opcode.find(words[0]);
  if (rows == by_opcode.end()) return -1;
  for (const int row : rows->second)
    if (matches(kForms[row].pattern, words)) return row;
  return -1;
}

}  // namespace gptoss::emulator
