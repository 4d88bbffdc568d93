// How floats are computed.
#pragma once

#include <cstdint>

namespace qconv {

/// While it lives, this thread rounds to nearest, keeps denormals and traps no exception, whatever the caller of the
/// library has set. Results then depend neither on the caller nor on the thread. Nearly free where that is so already.
class DefaultFloatEnvironment {
public:
    DefaultFloatEnvironment() noexcept : before_(read()) {
        if (differs()) write((before_ & ~control) | standard);
    }
    ~DefaultFloatEnvironment() {
        if (differs()) write(before_);
    }
    DefaultFloatEnvironment(const DefaultFloatEnvironment &) = delete;
    DefaultFloatEnvironment &operator=(const DefaultFloatEnvironment &) = delete;

private:
    using Register = std::uint64_t;
    bool differs() const noexcept { return (before_ & control) != standard; }

#if defined(__x86_64__)
    // MXCSR: rounding, flushing, and a mask bit for each exception. Bits 0 to 5 tell which exceptions there were.
    static constexpr Register control = 0xffc0, standard = 0x1f80;
    static Register read() noexcept { return __builtin_ia32_stmxcsr(); }
    static void write(Register value) noexcept { __builtin_ia32_ldmxcsr(static_cast<unsigned>(value)); }
#elif defined(__aarch64__)
    static constexpr Register control = ~Register{0}, standard = 0;
    static Register read() noexcept {
        Register value;
        __asm__ volatile("mrs %0, fpcr" : "=r"(value));
        return value;
    }
    static void write(Register value) noexcept { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }
#elif defined(__arm__) && defined(__ARM_FP)
    // FPSCR: what is not the outcome of comparisons and exceptions.
    static constexpr Register control = 0x07f79f00, standard = 0;
    static Register read() noexcept {
        std::uint32_t value;
        __asm__ volatile("vmrs %0, fpscr" : "=r"(value));
        return value;
    }
    static void write(Register value) noexcept {
        __asm__ volatile("vmsr fpscr, %0" : : "r"(static_cast<std::uint32_t>(value)));
    }
#else
    static constexpr Register control = 0, standard = 0;
    static Register read() noexcept { return 0; }
    static void write(Register) noexcept {}
#endif

    Register before_;
};

} // namespace qconv
