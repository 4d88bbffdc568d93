// Schedules for x86-64: SSE4.1, AVX2 and AVX-512.
#include "schedules/cpu.h"

namespace qconv::schedules {

const Schedules &x86() {
    static const Cpu schedules;
    return schedules;
}

} // namespace qconv::schedules
