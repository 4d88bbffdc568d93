// The only file of the runtime that asks which architecture it is compiled for.
#include "cpu_features.h"

#include <array>
#include <mutex>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace qconv {
namespace {

using enum CpuFeature;

// Halide picks LLVM's -mcpu from the target: penryn, haswell, skylake-avx512 and znver4 for our four. LLVM may then use
// any instruction of that CPU on its own account, whatever the schedule asks for. So each set below is what LLVM
// selects without being told to; sse4a is there since LLVM lowers some shuffles of znver4 to extrq and insertq.
constexpr CpuFeatures needs_sse41{Sse3, Ssse3, Sse41};
constexpr CpuFeatures needs_avx2 =
    needs_sse41 | CpuFeatures{Sse42, Popcnt, Movbe, Lzcnt, Bmi1, Bmi2, Avx, F16c, Fma, Avx2};
constexpr CpuFeatures needs_avx512 = needs_avx2 | CpuFeatures{Avx512f, Avx512cd, Avx512bw, Avx512dq, Avx512vl};
constexpr CpuFeatures needs_avx512_zen4 =
    needs_avx512 | CpuFeatures{Sse4a,           Avx512ifma, Avx512vbmi, Avx512vbmi2, Avx512vnni, Avx512bitalg,
                               Avx512vpopcntdq, Avx512bf16, Gfni,       Vaes,        Vpclmulqdq};

constexpr std::array targets{
    KernelTarget{"avx512_zen4",
                 "x86-64-linux-sse41-avx-f16c-fma-avx2-avx512-avx512_skylake-avx512_cannonlake-avx512_zen4", 512,
                 needs_avx512_zen4},
    KernelTarget{"avx512", "x86-64-linux-sse41-avx-f16c-fma-avx2-avx512-avx512_skylake", 512, needs_avx512},
    KernelTarget{"avx2", "x86-64-linux-sse41-avx-f16c-fma-avx2", 256, needs_avx2},
    KernelTarget{"sse41", "x86-64-linux-sse41", 128, needs_sse41},
};

constexpr std::array<const char *, static_cast<int>(CpuFeature::Count)> feature_names{
    "sse3",        "ssse3",        "sse4.1",      "sse4.2",        "sse4a",
    "popcnt",      "movbe",        "lzcnt",       "bmi1",          "bmi2",
    "avx",         "f16c",         "fma",         "avx2",          "avx512f",
    "avx512cd",    "avx512bw",     "avx512dq",    "avx512vl",      "avx512ifma",
    "avx512vbmi",  "avx512_vbmi2", "avx512_vnni", "avx512_bitalg", "avx512_vpopcntdq",
    "avx512_bf16", "gfni",         "vaes",        "vpclmulqdq"};

struct CpuidBit {
    CpuFeature feature;
    std::uint32_t CpuidWords::*word;
    int bit;
};

constexpr std::array cpuid_bits{
    CpuidBit{Sse3, &CpuidWords::leaf1_ecx, 0},          CpuidBit{Ssse3, &CpuidWords::leaf1_ecx, 9},
    CpuidBit{Fma, &CpuidWords::leaf1_ecx, 12},          CpuidBit{Sse41, &CpuidWords::leaf1_ecx, 19},
    CpuidBit{Sse42, &CpuidWords::leaf1_ecx, 20},        CpuidBit{Movbe, &CpuidWords::leaf1_ecx, 22},
    CpuidBit{Popcnt, &CpuidWords::leaf1_ecx, 23},       CpuidBit{Avx, &CpuidWords::leaf1_ecx, 28},
    CpuidBit{F16c, &CpuidWords::leaf1_ecx, 29},         CpuidBit{Bmi1, &CpuidWords::leaf7_ebx, 3},
    CpuidBit{Avx2, &CpuidWords::leaf7_ebx, 5},          CpuidBit{Bmi2, &CpuidWords::leaf7_ebx, 8},
    CpuidBit{Avx512f, &CpuidWords::leaf7_ebx, 16},      CpuidBit{Avx512dq, &CpuidWords::leaf7_ebx, 17},
    CpuidBit{Avx512ifma, &CpuidWords::leaf7_ebx, 21},   CpuidBit{Avx512cd, &CpuidWords::leaf7_ebx, 28},
    CpuidBit{Avx512bw, &CpuidWords::leaf7_ebx, 30},     CpuidBit{Avx512vl, &CpuidWords::leaf7_ebx, 31},
    CpuidBit{Avx512vbmi, &CpuidWords::leaf7_ecx, 1},    CpuidBit{Avx512vbmi2, &CpuidWords::leaf7_ecx, 6},
    CpuidBit{Gfni, &CpuidWords::leaf7_ecx, 8},          CpuidBit{Vaes, &CpuidWords::leaf7_ecx, 9},
    CpuidBit{Vpclmulqdq, &CpuidWords::leaf7_ecx, 10},   CpuidBit{Avx512vnni, &CpuidWords::leaf7_ecx, 11},
    CpuidBit{Avx512bitalg, &CpuidWords::leaf7_ecx, 12}, CpuidBit{Avx512vpopcntdq, &CpuidWords::leaf7_ecx, 14},
    CpuidBit{Avx512bf16, &CpuidWords::leaf7_1_eax, 5},  CpuidBit{Lzcnt, &CpuidWords::extended1_ecx, 5},
    CpuidBit{Sse4a, &CpuidWords::extended1_ecx, 6},
};
static_assert(cpuid_bits.size() == static_cast<std::size_t>(CpuFeature::Count));

// Unusable while the operating system does not save the registers they work on.
constexpr CpuFeatures needs_zmm_state{Avx512f,    Avx512cd,    Avx512bw,   Avx512dq,     Avx512vl,        Avx512ifma,
                                      Avx512vbmi, Avx512vbmi2, Avx512vnni, Avx512bitalg, Avx512vpopcntdq, Avx512bf16};
constexpr CpuFeatures needs_ymm_state = needs_zmm_state | CpuFeatures{Avx, F16c, Fma, Avx2, Vaes, Vpclmulqdq};
constexpr std::uint64_t xcr0_ymm = 0x06; // SSE and AVX
constexpr std::uint64_t xcr0_zmm = 0xe6; // and the mask registers and both parts of the zmm file

#if defined(__x86_64__)
CpuidWords read_cpuid() {
    CpuidWords words;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return words;
    words.leaf1_ecx = ecx;
    constexpr unsigned osxsave = 1U << 27;
    if ((ecx & osxsave) != 0) {
        unsigned low = 0, high = 0;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        words.xcr0 = (std::uint64_t{high} << 32) | low;
    }
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0) {
        words.leaf7_ebx = ebx;
        words.leaf7_ecx = ecx;
        const unsigned subleaves = eax;
        if (subleaves >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) words.leaf7_1_eax = eax;
    }
    if (__get_cpuid(0x80000001U, &eax, &ebx, &ecx, &edx) != 0) words.extended1_ecx = ecx;
    return words;
}
#else
CpuidWords read_cpuid() {
    return {};
}
#endif

std::mutex override_mutex;
std::optional<CpuFeatures> overriding;

bool has_token(std::string_view dashed, std::string_view token) {
    while (!dashed.empty()) {
        const std::size_t end = dashed.find('-');
        if (dashed.substr(0, end) == token) return true;
        if (end == std::string_view::npos) break;
        dashed.remove_prefix(end + 1);
    }
    return false;
}

std::string_view last_token(std::string_view dashed) {
    return dashed.substr(dashed.rfind('-') + 1);
}

} // namespace

const char *cpu_feature_name(CpuFeature feature) {
    return feature_names[static_cast<std::size_t>(feature)];
}

std::span<const KernelTarget> kernel_targets() {
    return targets;
}

const KernelTarget *find_target(std::string_view name) {
    for (const KernelTarget &target : targets) {
        if (name == target.name || name == target.halide_target) return &target;
    }
    // Another Halide string belongs to the most capable family whose last feature it names.
    if (!name.starts_with("x86-64-")) return nullptr;
    for (const KernelTarget &target : targets) {
        if (has_token(name, last_token(target.halide_target))) return &target;
    }
    return nullptr;
}

int target_rank(std::string_view name) {
    int rank = 0;
    while (rank < static_cast<int>(targets.size()) && name != targets[static_cast<std::size_t>(rank)].name)
        ++rank;
    return rank;
}

const KernelTarget *best_target(CpuFeatures features) {
    for (const KernelTarget &target : targets) {
        if (features.contains(target.needs)) return &target;
    }
    return nullptr;
}

const char *missing_feature(const KernelTarget &target, CpuFeatures features) {
    for (int i = 0; i < static_cast<int>(CpuFeature::Count); ++i) {
        const auto feature = static_cast<CpuFeature>(i);
        if (target.needs.has(feature) && !features.has(feature)) return cpu_feature_name(feature);
    }
    return "";
}

CpuFeatures decode_cpuid(const CpuidWords &words) {
    CpuFeatures features;
    for (const CpuidBit &entry : cpuid_bits) {
        if ((words.*entry.word >> entry.bit & 1U) != 0) features.add(entry.feature);
    }
    if ((words.xcr0 & xcr0_ymm) != xcr0_ymm) features = features.without(needs_ymm_state);
    if ((words.xcr0 & xcr0_zmm) != xcr0_zmm) features = features.without(needs_zmm_state);
    return features;
}

CpuFeatures cpu_features() {
    static const CpuFeatures detected = decode_cpuid(read_cpuid());
    const std::lock_guard lock(override_mutex);
    return overriding.value_or(detected);
}

void override_cpu_features(std::optional<CpuFeatures> features) {
    const std::lock_guard lock(override_mutex);
    overriding = features;
}

} // namespace qconv
