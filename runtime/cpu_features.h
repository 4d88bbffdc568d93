// The kernels' targets, and what each needs of the CPU and the operating system.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>

#include "fork.h"

namespace qconv {

enum class CpuFeature : int {
    Sse3,
    Ssse3,
    Sse41,
    Sse42,
    Sse4a,
    Popcnt,
    Movbe,
    Lzcnt,
    Bmi1,
    Bmi2,
    Avx,
    F16c,
    Fma,
    Avx2,
    Avx512f,
    Avx512cd,
    Avx512bw,
    Avx512dq,
    Avx512vl,
    Avx512ifma,
    Avx512vbmi,
    Avx512vbmi2,
    Avx512vnni,
    Avx512bitalg,
    Avx512vpopcntdq,
    Avx512bf16,
    Gfni,
    Vaes,
    Vpclmulqdq,
    Asimd,   // AArch64's NEON
    Asimddp, // its dot products
    Neon,    // ARM32's
    Count
};

/// The name as /proc/cpuinfo spells it, or nearly.
const char *cpu_feature_name(CpuFeature feature);

/// A set of features. Selection takes one as a parameter, so that it is testable on any machine.
class CpuFeatures {
public:
    constexpr CpuFeatures() = default;
    constexpr CpuFeatures(std::initializer_list<CpuFeature> features) {
        for (const CpuFeature feature : features)
            add(feature);
    }

    constexpr void add(CpuFeature feature) { bits_ |= bit(feature); }
    constexpr void remove(CpuFeature feature) { bits_ &= ~bit(feature); }
    constexpr bool has(CpuFeature feature) const { return (bits_ & bit(feature)) != 0; }
    constexpr bool contains(CpuFeatures other) const { return (other.bits_ & ~bits_) == 0; }
    constexpr CpuFeatures operator|(CpuFeatures other) const { return from_bits(bits_ | other.bits_); }
    constexpr CpuFeatures without(CpuFeatures other) const { return from_bits(bits_ & ~other.bits_); }
    constexpr bool operator==(const CpuFeatures &) const = default;

private:
    static constexpr std::uint64_t bit(CpuFeature feature) { return std::uint64_t{1} << static_cast<int>(feature); }
    static constexpr CpuFeatures from_bits(std::uint64_t bits) {
        CpuFeatures result;
        result.bits_ = bits;
        return result;
    }

    std::uint64_t bits_ = 0;
};

/// What runs a kernel's inner loops. A device's kernels need the CPU's features too, for what prepares the launch.
enum class DeviceKind : int { Cpu, Cuda, OpenCl };

struct KernelTarget {
    const char *name;          // "avx2"
    const char *halide_target; // what Halide compiles it with
    int vector_bits;           // GPUs: of a warp
    CpuFeatures needs;
    DeviceKind device = DeviceKind::Cpu;
};

/// Every target of CPUs; of one architecture, the preferred first.
std::span<const KernelTarget> kernel_targets();
/// Those whose inner loops run on a GPU (device.h).
std::span<const KernelTarget> device_targets();
/// By short name, or by the Halide target string of the table. NULL if there is none.
const KernelTarget *find_target(std::string_view name);
/// Position in kernel_targets(); their number if it is none of them.
int target_rank(std::string_view name);
/// The preferred target these features can run; NULL if there is none.
const KernelTarget *best_target(CpuFeatures features);
/// The first feature that the target needs and the set lacks; "" if none.
const char *missing_feature(const KernelTarget &target, CpuFeatures features);

/// The registers that say what an x86 CPU has and what its operating system saves on a task switch.
struct CpuidWords {
    std::uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_1_eax = 0, extended1_ecx = 0;
    std::uint64_t xcr0 = 0; // 0 when the operating system does not use xsave
};
CpuFeatures decode_cpuid(const CpuidWords &words);

/// What an ARM CPU's kernel says of it (AT_HWCAP of getauxval), in the bits of AArch64 or of ARM32.
enum class HwcapBits { Arm64, Arm32 };
CpuFeatures decode_hwcap(std::uint64_t hwcap, HwcapBits bits);

/// What this machine has, or what override_cpu_features set.
CpuFeatures cpu_features();
/// For tests: pretend to be another CPU; nullopt goes back to the real one.
void override_cpu_features(std::optional<CpuFeatures> features);
/// Of that override.
extern const AcrossFork features_across_fork;

} // namespace qconv
