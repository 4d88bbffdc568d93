#include "schedules/schedule.h"

#include <stdexcept>

namespace qconv::schedules {

const Schedules &schedules_for(const Halide::Target &target) {
    if (target.arch == Halide::Target::X86 && !target.has_gpu_feature()) return x86();
    throw std::invalid_argument("no schedules for target " + target.to_string());
}

} // namespace qconv::schedules
