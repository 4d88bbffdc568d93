#include "tools/cpu_model.h"

#include <fstream>

namespace qconv::tools {

std::string cpu_model() {
    std::ifstream stream("/proc/cpuinfo");
    std::string part;
    for (std::string line; std::getline(stream, line);) {
        const auto colon = line.find(": ");
        if (colon == std::string::npos) continue;
        const std::string value = line.substr(colon + 2);
        if (line.starts_with("model name")) return value;
        if (line.starts_with("processor") && !part.empty()) break;
        if (line.starts_with("CPU implementer")) part = "implementer " + value;
        if (line.starts_with("CPU part")) part += " part " + value;
    }
    return part.empty() ? "unknown" : part;
}

} // namespace qconv::tools
