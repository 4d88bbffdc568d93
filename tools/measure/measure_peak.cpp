#include "tools/measure/measure_peak.h"

#if defined(__x86_64__)
#include "tools/peaks.h"
#endif

namespace qconv::tools {

double peak_of_target([[maybe_unused]] qconv_path path, [[maybe_unused]] const std::string &target) {
#if defined(__x86_64__)
    constexpr double kSeconds = 0.5e-3;
    return measure_peak(peak_kind(path), target, kSeconds);
#else
    return 0;
#endif
}

} // namespace qconv::tools
